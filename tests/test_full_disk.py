"A disk that fills up, at any point of writing a raster, a map, a layer, a bundle, a data set or an archive, leaves nothing behind."
import json, subprocess, sys

SETUP = '''
import json, resource, sys
from pathlib import Path
from types import SimpleNamespace
import geopandas as gpd, numpy as np, rasterio, torch
from minec2f.world.archive import synth_archive
from minec2f.bands import BandStats, to_reflectance
from minec2f.bundle import load_bundle, save_bundle
from minec2f.core import WriteError
from minec2f.data import InputSpec
from minec2f.models import mine_model
from minec2f.predict import predict_scene, to_polygons
from minec2f.raster import Grid, write_raster
from minec2f.synth import synth_dataset

class Rule(torch.nn.Module):
    def forward(self, x): return torch.stack([0*x[:,0], 40*(x[:,0]-.25)], 1)

folder = Path(sys.argv[1])
bundle = SimpleNamespace(model=Rule(), bands=['B04'], classes=['background','mine'], size=128,
                         encode=lambda dn, valid: np.where(valid, to_reflectance(dn), np.nan))
grid = Grid(rasterio.CRS.from_epsg(32723), rasterio.transform.from_origin(6e5, 77e5, 10, 10), 420, 300)
dn = np.random.default_rng(0).integers(1, 5000, (1,140,100)).astype(np.uint16).repeat(3, 1).repeat(3, 2)
def write_scene(path): write_raster(path, dn, grid, nodata=0, names=['B04'])
def write_map(path): predict_scene(bundle, folder/'scene.tif', path, progress=False)
def write_layer(path): to_polygons(folder/'map.tif', path, min_area_ha=.2)
learn = SimpleNamespace(model=mine_model(['B04'], encoder='resnet18', pyramid=32, segmentation=32),
                        dls=SimpleNamespace(spec=InputSpec(['B04'], BandStats(['B04']).add(to_reflectance(dn)))))
def write_bundle(path): save_bundle(path, learn)

def write_data(path): synth_dataset(path, 2, 1, size=64, n_scenes=0)
def write_archive(path): synth_archive(path, 1, scene_size=64, block=64, dates=('2021-06-12',))

def same_map(a, b):
    with rasterio.open(a) as f, rasterio.open(b) as g: return bool((f.read()==g.read()).all())
def same_bundle(a, b): return load_bundle(a).model.config==load_bundle(b).model.config
def same_folder(a, b): return [o.stat().st_size for o in sorted(a.rglob('*')) if o.suffix=='.tif']==[o.stat().st_size for o in sorted(b.rglob('*')) if o.suffix=='.tif']
def same_layer(a, b): return gpd.read_file(a).equals(gpd.read_file(b))

def limited(write, same, path, limit):
    "What is said, what is left, and whether that is complete, where no file may be larger than `limit` bytes"
    path.parent.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try: write(path); error = ''
    except WriteError as e: error = str(e)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,)*2)
    return error, sorted(o.name for o in path.parent.iterdir()), path.exists() and same(path, folder/path.name)

writers = {'scene.tif': (write_scene, same_map), 'map.tif': (write_map, same_map), 'mines.gpkg': (write_layer, same_layer),
           'bundle': (write_bundle, same_bundle), 'data': (write_data, same_folder), 'archive': (write_archive, same_folder)}
for name,(write,_) in writers.items(): write(folder/name)
def outcomes(name):
    largest = max(o.stat().st_size for o in [folder/name, *(folder/name).rglob('*')])
    return [limited(*writers[name], folder/f'{o}_{name}'/name, int(o*largest)) for o in (.01, .3, .6, .9, .999, 3)]

print(json.dumps({name: outcomes(name) for name in writers}))
'''

def test_full_disk_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', SETUP, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    for name,results in json.loads(done.stdout.splitlines()[-1]).items():
        for error,left,complete in results:
            if error: assert name in error and 'could not be written' in error and left==[]
            else: assert left==[name] and complete
        assert results[0][0] and results[1][0] and not results[-1][0]
