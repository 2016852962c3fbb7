"From polygons and archives to chips: what `minec2f.build` and `minec2f.stac` are made of."
