"""What is left where no file may grow beyond a limit: `python tests/full_disk.py FOLDER` prints it as JSON.

The limit holds for the whole process, so this is one of its own."""
import json, resource, sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd, numpy as np, rasterio, torch

from minec2f.bands import BandStats, to_reflectance
from minec2f.bundle import load_bundle, save_bundle
from minec2f.core import WriteError
from minec2f.inputs import InputSpec
from minec2f.models import mine_model
from minec2f.predict import predict_scene, to_polygons
from minec2f.raster import Grid, write_raster
from minec2f.synth import synth_dataset
from minec2f.world.archive import synth_archive

SHARES = .01, .3, .6, .9, .999, 99 # of the largest file that an output has; tiles are made in a much larger one

class Rule(torch.nn.Module):
    "Mine where the only band is bright"
    def forward(self, x): return torch.stack([0*x[:,0], 40*(x[:,0]-.25)], 1)

def encode(dn, valid): return np.where(valid, to_reflectance(dn), np.nan)

FOLDER = Path(sys.argv[1])
RULE = SimpleNamespace(model=Rule(), bands=['B04'], classes=['background', 'mine'], size=128, encode=encode)
GRID = Grid(rasterio.CRS.from_epsg(32723), rasterio.transform.from_origin(6e5, 77e5, 10, 10), 420, 300)
DN = np.random.default_rng(0).integers(1, 5000, (1,140,100)).astype(np.uint16).repeat(3, 1).repeat(3, 2)

# What is written

def write_scene(path): write_raster(path, DN, GRID, nodata=0, names=['B04'])
def write_map(path): predict_scene(RULE, FOLDER/'scene.tif', path, progress=False)
def write_layer(path): to_polygons(FOLDER/'map.tif', path, min_area_ha=.2)
def write_data(path): synth_dataset(path, 2, 1, size=64, n_scenes=0)
def write_archive(path): synth_archive(path, 1, scene_size=64, block=64, dates=('2021-06-12',))

def write_bundle(path):
    model = mine_model(['B04'], encoder='resnet18', pyramid=32, segmentation=32)
    spec = InputSpec(['B04'], BandStats(['B04']).add(to_reflectance(DN)))
    save_bundle(path, SimpleNamespace(model=model, dls=SimpleNamespace(spec=spec)))

# Is it complete?

def same_raster(a, b):
    with rasterio.open(a) as f, rasterio.open(b) as g: return bool((f.read()==g.read()).all())

def same_layer(a, b): return gpd.read_file(a).equals(gpd.read_file(b))
def same_bundle(a, b): return load_bundle(a).model.config==load_bundle(b).model.config

def sizes(folder): return [o.stat().st_size for o in sorted(folder.rglob('*.tif'))]
def same_folder(a, b): return sizes(a)==sizes(b)

@dataclass
class Output:
    name:str
    write:callable # Of a path
    same:callable  # Of two paths
    beside:tuple=() # Endings of what belongs beside it

    @property
    def files(self): return sorted([self.name, *(Path(self.name).with_suffix(o).name for o in self.beside)])

OUTPUTS = [
    Output('scene.tif',  write_scene,   same_raster),
    Output('map.tif',    write_map,     same_raster, ('.qml', '.tif.aux.xml')),
    Output('mines.gpkg', write_layer,   same_layer),
    Output('mines.pmtiles', write_layer, same_layer),
    Output('bundle',     write_bundle,  same_bundle),
    Output('data',       write_data,    same_folder),
    Output('archive',    write_archive, same_folder)]

# The run

def limited(o, path, limit):
    "What is said, what is left, and whether that is complete, where no file may be larger than `limit` bytes"
    path.parent.mkdir()
    error = ''
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try: o.write(path)
    except WriteError as e: error = str(e)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    left = sorted(p.name for p in path.parent.iterdir())
    return error, left, left==o.files and o.same(path, FOLDER/o.name)

def outcomes(o):
    whole = FOLDER/o.name
    largest = max(p.stat().st_size for p in [whole, *whole.rglob('*')])
    return [limited(o, FOLDER/f'{share}_{o.name}'/o.name, int(share*largest)) for share in SHARES]

if __name__=='__main__':
    for o in OUTPUTS: o.write(FOLDER/o.name) # without a limit
    print(json.dumps({o.name: outcomes(o) for o in OUTPUTS}))
