"""How long loading and analysis take, and how that grows: the tables of "Loading and analysis" in results/README.md.

    python results/speed.py loading    # a minute: 1,000 chips to check, windows a second, share of a training step
    python results/speed.py growth     # a few minutes: analyses of n, 2n, 4n and 8n things, and the exponent

Times are processor time of one thread, so a busy machine changes them little. Nothing is kept.
"""
import sys, tempfile, time, warnings
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, rasterio, torch
from rasterio.transform import from_origin

from minec2f.boundary import boundary_f, boundary_iou, hd95
from minec2f.chips import load_index
from minec2f.data import mine_dls
from minec2f.maps import to_polygons
from minec2f.models import mine_model
from minec2f.scenescores import match_objects
from minec2f.splits import assert_no_leak, drop_near, site_split
from minec2f.study.shift import kde, kde_grid, mmd2, sliced_wasserstein, wasserstein

BANDS = ['B04','B03','B02']
rng = np.random.default_rng(0)

def seconds(f):
    start = time.process_time()
    f()
    return time.process_time()-start

def write(path, x, names, k=0, **more):
    place = dict(crs=f'EPSG:{32601+k%60}', transform=from_origin(4e5, 1e6+1e4*k, 10, 10))
    size = dict(count=len(x), height=x.shape[1], width=x.shape[2], dtype=x.dtype)
    with rasterio.open(path, 'w', driver='GTiff', compress='deflate', **size, **place, **more) as f:
        f.write(x)
        f.descriptions = names
        if names[0]=='class': f.scales = 1, .005

def a_dataset(folder, n, side):
    for o in ('images','masks'): (folder/o).mkdir(parents=True)
    mask = np.zeros((1,side,side), np.uint8)
    mask[:, side//4:side//2, side//4:side//2] = 1
    for k in range(n):
        write(folder/f'images/c{k}.tif', rng.integers(200, 3000, (3,side,side)).astype(np.uint16), BANDS, k, nodata=0)
        write(folder/f'masks/c{k}.tif', mask, ['label'], k)
    table = dict(id=[f'c{k}' for k in range(n)], site=[f's{k}' for k in range(n)], domain='fine')
    pd.DataFrame(table).to_csv(folder/'index.csv', index=False)
    return folder

def step(encoder):
    "Seconds of a training step with a batch that is there: 8 windows of 256 px"
    net = mine_model(BANDS, encoder=encoder, weights=None)
    opt, x = torch.optim.AdamW(net.parameters()), torch.randn(8, 3, 256, 256)
    def run():
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(x), torch.zeros(8, 256, 256, dtype=torch.long)).backward()
        opt.step()
    return min(seconds(run) for _ in range(3))

def loading(tmp):
    index = a_dataset(tmp/'small', 1000, 128)
    print('load_index, ms a chip:', round(1e3*min(seconds(lambda: load_index(index)) for _ in range(2))/1000, 2))
    index = site_split(load_index(a_dataset(tmp/'data', 128, 256)), buffer_km=1)
    steps = {o: step(o) for o in ('resnet18', 'tu-tf_efficientnet_lite0')}
    print('| cache |', *(f'{o}: share of the step, first epoch and later |' for o in steps), 'windows a second |')
    for name,cache in dict(none=False, folder=tmp/'cache', memory=True).items():
        train = mine_dls(index, 'fine', BANDS, cache=cache, device='cpu').train
        first, *later = [seconds(partial(list, train))/len(train) for _ in range(4)]
        shares = [f'{100*o/(o+t):.1f} % |' for t in steps.values() for o in (first, min(later))]
        print('|', name, '|', *shares, f'{8/min(later):.0f} |', flush=True)

def a_map(path, n):
    "A map with `n` patches of nine pixels"
    side = int(np.ceil(n**.5))
    cls = np.zeros((8*side,8*side), np.uint8)
    row, col = np.divmod(np.arange(n), side)
    for k in range(9): cls[8*row+2+k//3, 8*col+2+k%3] = 1
    write(path, np.stack([cls, 200*cls]), ['class','probability'], tiled=True)
    return path

def places(n):
    lon, lat = rng.uniform(-180, 180, n), rng.uniform(-60, 60, n)
    size = dict(width=256, height=256, res_m=rng.uniform(9, 11, n))
    ids = [f'c{k}' for k in range(n)]
    return pd.DataFrame(dict(id=ids, site=ids, domain='fine', lon=lon, lat=lat, **size))

def patches(tmp):
    def make(n):
        path = a_map(tmp/f'{n}.tif', n)
        return lambda: to_polygons(path, tmp/f'{n}.gpkg')
    return make

def of(make, f): # n -> what is timed: `f` of what `make` gives for n
    def timed(n):
        given = make(n)
        return lambda: f(*given)
    return timed

def growth(tmp):
    def rows(n): return rng.normal(size=(n,6)), rng.normal(size=(n,6))+.1
    def values(n): return rng.normal(size=n), rng.normal(size=n)+.1
    def masks(n): # of n pixels
        side = round(n**.5/16)
        return [(rng.random((side,side))>.5).repeat(16, 0).repeat(16, 1) for _ in range(2)]
    def chips(n): return [site_split(places(n), buffer_km=1)]
    jobs = {
        'KDE (values a domain)': (12_500, of(values, lambda x, z: kde(x, kde_grid(x, z)))),
        'Wasserstein (values a domain)': (12_500, of(values, wasserstein)),
        'sliced Wasserstein (rows a domain)': (12_500, of(rows, sliced_wasserstein)),
        'MMD (rows a domain; at most 2,000 are compared)': (12_500, of(rows, mmd2)),
        'boundary F (pixels)': (2**19, of(masks, boundary_f)),
        '95 % Hausdorff distance (pixels)': (2**19, of(masks, hd95)),
        'boundary IoU (pixels)': (2**19, of(masks, boundary_iou)),
        'matching objects (pixels)': (2**19, of(masks, match_objects)),
        'polygons of a map (patches)': (2_000, patches(tmp)),
        'splitting (chips)': (3_000, of(lambda n: [places(n)], site_split)),
        'looking for leaks (chips)': (3_000, of(chips, lambda o: assert_no_leak(o, 1))),
        'what lies near (chips)': (3_000, of(lambda n: [places(n), places(n)], drop_near))}
    print('| what | n | s | 2n | 4n | 8n | exponent |\n|---|---|---|---|---|---|---|')
    for name,(n,make) in jobs.items():
        sizes = n*2**np.arange(4)
        took = [min(seconds(f) for _ in range(2)) for f in map(make, sizes.tolist())]
        slope = np.polyfit(np.log(sizes), np.log(took), 1)[0]
        print('|', name, '|', f'{n:,} |', *(f'{o:.3g} |' for o in took), f'{slope:.2f} |', flush=True)

if __name__=='__main__':
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp: dict(loading=loading, growth=growth)[sys.argv[1]](Path(tmp))
