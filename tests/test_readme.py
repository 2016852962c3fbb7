"README.md does what it says: its Python runs, its commands and their parameters exist, its names and links lead somewhere."
import configparser, inspect, re, shlex, shutil
from importlib import import_module

import geopandas as gpd, pandas as pd, papermill, pytest, rasterio
from fastai.learner import Learner

from minec2f import catalog, data, learner, stac
from minec2f.archive import synth_archive
from minec2f.bundle import load_bundle
from minec2f.explore import Explorer
from minec2f.fileserver import serve
from minec2f.method import methods
from minec2f.predict import CLASS_NAMES if False else None
