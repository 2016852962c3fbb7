"Who wins, and how surely: ladders of methods, tests that could refute, calibration, domain shift, figures of a paper."
