"""How long loading and analysis take, and how that grows: the tables of "Loading and analysis" in results/README.md.

    python results/speed.py loading    # a minute: chips to check, windows a second, share of a training step
    python results/speed.py growth     # a few minutes: analyses of n, 2n, 4n and 8n things, and the exponent

Times are processor time of one thread, so that other programs disturb them less. Nothing is kept.
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

def seconds(f, *args):
    start = time.process_time()
    f(*args)
    return time.process_time()-start

def write(path, x, names, k=0, scales=None, **more):
    place = dict(crs=f'EPSG:{32601+k%60}', transform=from_origin(4e5, 1e6+1e4*k, 10, 10))
    size = dict(count=len(x), height=x.shape[1], width=x.shape[2], dtype=x.dtype)
    with rasterio.open(path, 'w', driver='GTiff', compress='deflate', **size, **place, **more) as f:
        f.write(x)
        f.descriptions = names
        if scales: f.scales = scales

def a_dataset(folder, n, side):
    for o in ('images','masks'): (folder/o).mkdir(parents=True)
    mask = np.zeros((1,side,side), np.uint8)
    mask[:, side//4:side//2, side//4:side//2] = 1
    for k in range(n):
        write(folder/f'images/c{k}.tif', rng.integers(200, 3000, (3,side,side)).astype(np.uint16), BANDS, k, nodata=0)
        write(folder/f'masks/c{k}.tif', mask, ['label'], k)
    ids = [f'c{k}' for k in range(n)]
    pd.DataFrame(dict(id=ids, site=ids, domain='fine')).to_csv(folder/'index.csv', index=False)
    return folder

def step(encoder):
    "Seconds of a training step with a batch that is there: 8 windows of 256 px"
    net = mine_model(BANDS, encoder=encoder, weights=None)
    opt, x, y = torch.optim.AdamW(net.parameters()), torch.randn(8, 3, 256, 256), torch.zeros(8, 256, 256).long()
    def run():
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
    return min(seconds(run) for _ in range(3))

def loading(tmp):
    small = a_dataset(tmp/'small', 1000, 128)
    print('load_index, ms a chip:', round(min(seconds(load_index, small) for _ in range(2)), 2))
    index = site_split(load_index(a_dataset(tmp/'data', 128, 256)), buffer_km=1)
    steps = {o: step(o) for o in ('resnet18', 'tu-tf_efficientnet_lite0')}
    print('| cache |', *(f'{o}: share of the step, first epoch and later |' for o in steps), 'windows a second |')
    for name,cache in dict(none=False, folder=tmp/'cache', memory=True).items():
        train = mine_dls(index, 'fine', BANDS, cache=cache, device='cpu').train
        first, *later = [seconds(list, train)/len(train) for _ in range(4)]
        shares = [f'{o/(o+t):.1%}' for t in steps.values() for o in (first, min(later))]
        print('|', name, '|', ' | '.join(shares), f'| {8/min(later):.0f} |', flush=True)

def samples(n, *shape): return rng.normal(size=(n,*shape)), rng.normal(size=(n,*shape))+.1

def masks(n): # of n pixels
    side = round(n**.5/16)
    return [(rng.random((side,side))>.5).repeat(16, 0).repeat(16, 1) for _ in range(2)]

def a_map(tmp, n): # with n patches of nine pixels
    side = int(np.ceil(n**.5))
    row, col = np.divmod(np.arange(n), side)
    cls = np.zeros((8*side,8*side), np.uint8)
    for k in range(9): cls[8*row+2+k//3, 8*col+2+k%3] = 1
    write(tmp/f'{n}.tif', np.stack([cls, 200*cls]), ['class','probability'], scales=(1,.005), tiled=True)
    return tmp/f'{n}.tif', tmp/f'{n}.gpkg'

def places(n):
    lon, lat, res = rng.uniform(-180, 180, n), rng.uniform(-60, 60, n), rng.uniform(9, 11, n)
    ids = [f'c{k}' for k in range(n)]
    return pd.DataFrame(dict(id=ids, site=ids, domain='fine', lon=lon, lat=lat, width=256, height=256, res_m=res))

def growth(tmp):
    jobs = [ # what is timed, of what, and the smallest n
        ('KDE (values a domain)', lambda x, z: kde(x, kde_grid(x, z)), samples, 12_500),
        ('Wasserstein (values a domain)', wasserstein, samples, 12_500),
        ('sliced Wasserstein (rows of 6 a domain)', sliced_wasserstein, lambda n: samples(n, 6), 12_500),
        ('MMD (rows of 6 a domain; at most 2,000 are compared)', mmd2, lambda n: samples(n, 6), 12_500),
        ('boundary F (pixels)', boundary_f, masks, 2**19),
        ('95 % Hausdorff distance (pixels)', hd95, masks, 2**19),
        ('boundary IoU (pixels)', boundary_iou, masks, 2**19),
        ('matching objects (pixels)', match_objects, masks, 2**19),
        ('polygons of a map (patches)', to_polygons, partial(a_map, tmp), 2_000),
        ('splitting by site (chips)', site_split, lambda n: [places(n)], 3_000),
        ('looking for leaks (chips)', assert_no_leak, lambda n: [site_split(places(n))], 3_000),
        ('what lies near (chips)', drop_near, lambda n: [places(n), places(n)], 3_000)]
    print('| what | n | s | 2n | 4n | 8n | exponent |\n|---|---|---|---|---|---|---|')
    for name,f,make,n in jobs:
        sizes = [n, 2*n, 4*n, 8*n]
        took = [min(seconds(f, *given) for _ in range(2)) for given in map(make, sizes)]
        slope = np.polyfit(np.log(sizes), np.log(took), 1)[0]
        print(f'| {name} | {n:,} |', ' | '.join(f'{o:.3g}' for o in took), f'| {slope:.2f} |', flush=True)

if __name__=='__main__':
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp: dict(loading=loading, growth=growth)[sys.argv[1]](Path(tmp))
