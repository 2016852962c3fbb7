"""Map a scene with an exported bundle: torch, numpy and rasterio are enough.

    python map_scene.py exported_bundle scene.tif probability.tif
"""
import json, sys
from pathlib import Path

import numpy as np, rasterio, torch

def starts(length, size, step): return [*range(0, max(length-size, 0), step), max(length-size, 0)]

folder, scene, out = map(Path, sys.argv[1:])
says = json.loads((folder/'item.json').read_text())['properties']
numbers, (takes,), (gives,) = says['mlm:hyperparameters'], says['mlm:input'], says['mlm:output']
size = takes['input']['shape'][-1]
network = torch.export.load(folder/'model.pt2').module()

with rasterio.open(scene) as f:
    lost = set(takes['bands'])-set(f.descriptions)
    if lost: sys.exit(f"{scene} has no band {', '.join(lost)}; it has {', '.join(map(str, f.descriptions))}")
    layers = [f.descriptions.index(o)+1 for o in takes['bands']]
    seen, profile = (f.read_masks(layers)>0).all(0), f.profile
    x = np.where(seen, f.read(layers)*np.float32(numbers['scale'])+np.float32(numbers['offset']), np.nan)  # (C,H,W)

height, width = seen.shape
x = np.pad(x, ((0,0), (0,max(size-height,0)), (0,max(size-width,0))), constant_values=np.nan).astype(np.float32)
wave = np.sin(np.pi*(np.arange(size)+.5)/size)**2
weight, step = np.outer(wave, wave), round(size*(1-numbers['overlap']))
total = np.zeros(x.shape[1:])
scores = np.zeros((gives['result']['shape'][1], *total.shape))
for r in starts(height, size, step):
    for c in starts(width, size, step):
        at = np.s_[..., r:r+size, c:c+size]
        p = network(torch.from_numpy(x[at])[None])[0].detach().numpy()  # (K,size,size)
        scores[at] += np.nan_to_num(np.log(p.clip(1e-38)))*weight*~np.isnan(p[0])
        total[at] += weight*~np.isnan(p[0])
p = np.exp(scores/np.where(total>0, total, 1))
mine = np.where(total>0, 1-p[0]/p.sum(0), np.nan)[:height,:width].astype(np.float32)  # not background
with rasterio.open(out, 'w', **profile | dict(count=1, dtype='float32', nodata=np.nan)) as f: f.write(mine, 1)
