"What most people need, in one import: `from minec2f.all import *`"
from .core import IGNORE, MineC2FError
from .bands import BandStats, composite, ndvi, to_reflectance
from .raster import metres_per_pixel, rasterize_polygons, read_chip, read_grid, read_polygons, write_raster
from .chips import load_index, load_scenes, read_sample
from .splits import assert_no_leak, country_split, show_split, site_split, split_table
from .curate import chip_facts, curate, write_curated
from .build import build_chips
from .stac import build_coarse_dataset
from .synth import synth_dataset
from .inputs import InputSpec
from .data import mine_dls
from .losses import SegLoss
from .metrics import Confusion
from .models import mine_model
from .method import Method, methods, register
from .learner import c2f_learner, teacher_learner
from .bundle import load_bundle, save_bundle
from .maps import to_polygons
from .predict import predict_scene
from .mapping import map_area
from .refine import refine_polygons
from .evaluate import by_group, evaluate, summarize
from .scenescores import evaluate_scenes, summarize_scenes
from .viz import learning_curves
from .explore import explore
from .webmap import view
