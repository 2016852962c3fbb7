"A synthetic world whose truth is known: land, images, careless outlines, an archive that serves them."
