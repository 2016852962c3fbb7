"A disk that fills up, at any point of writing a map or a layer, leaves nothing behind."
import json, subprocess, sys

SETUP = '''
import json, resource, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, rasterio, torch
from minec2f.bands import to_reflectance
from minec2f.core import WriteError
from minec2f.predict import predict_scene, to_polygons
from minec2f.raster import Grid, write_raster

class Rule(torch.nn.Module):
    def forward(self, x): return torch.stack([0*x[:,0], 40*(x[:,0]-.25)], 1)

folder = Path(sys.argv[1])
bundle = SimpleNamespace(model=Rule(), bands=['B04'], classes=['background','mine'], size=128,
                         encode=lambda dn, valid: np.where(valid, to_reflectance(dn), np.nan))
grid = Grid(rasterio.CRS.from_epsg(32723), rasterio.transform.from_origin(6e5, 77e5, 10, 10), 420, 300)
dn = np.random.default_rng(0).integers(1, 5000, (1,140,100)).astype(np.uint16).repeat(3, 1).repeat(3, 2)
write_raster(folder/'scene.tif', dn, grid, nodata=0, names=['B04'])
def write_map(path): predict_scene(bundle, folder/'scene.tif', path, progress=False)
def write_layer(path): to_polygons(folder/'map.tif', path, min_area_ha=.2)

def limited(write, path, limit):
    "What happens, and what is left, where no file may be larger than `limit` bytes"
    path.parent.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try: write(path); error = ''
    except WriteError as e: error = str(e)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,)*2)
    return error, sorted(o.name for o in path.parent.iterdir())

write_map(folder/'map.tif'); write_layer(folder/'mines.gpkg')
def outcomes(write, name, shares):
    size = (folder/name).stat().st_size
    return [limited(write, folder/f'out{o}_{name}'/name, int(o*size)) for o in shares]

print(json.dumps({'map.tif': outcomes(write_map, 'map.tif', [.01, .3, .7, .9, .999, 3]),
                  'mines.gpkg': outcomes(write_layer, 'mines.gpkg', [.01, .5, .9, 3])}))
'''

def test_full_disk_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', SETUP, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    for name,(*full, enough) in json.loads(done.stdout.splitlines()[-1]).items():
        for error,left in full:
            assert name in error and 'could not be written' in error
            assert left==[]
        assert enough==['', [name]]
