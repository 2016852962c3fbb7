"""What 20 corrected windows are worth, chosen or at random: the table in results/README.md.

    python results/review.py         # train and measure what is missing: 30 short trainings, a quarter of an hour
    python results/review.py table   # only the table of what is there

It needs the packages of `pip install 'minec2f[weights]'`. One file per seed in results/review/. Each seed is a
repetition with land, chips, scenes and trainings of its own: two networks learn from 30 fine chips and map six scenes;
20 windows of these are chosen and "corrected" with the truth; the first network is fine-tuned on chips and windows,
always by the same number of steps, and measured on eight scenes that nobody has looked at.
"""
import json, sys
from pathlib import Path

import geopandas as gpd, numpy as np, pandas as pd, pyogrio, torch
from fastai.torch_core import set_seed
from scipy import stats

from minec2f.bundle import load_bundle, save_bundle
from minec2f.chips import load_index, load_scenes
from minec2f.core import atomic
from minec2f.corrections import accept
from minec2f.data import mine_dls
from minec2f.learner import c2f_learner, teacher_learner
from minec2f.predict import predict_scene
from minec2f.raster import mask_polygons, read_chip
from minec2f.review import review
from minec2f.scenescores import evaluate_scenes, summarize_scenes
from minec2f.splits import site_split
from minec2f.study.results import markdown
from minec2f.synth import RARE, synth_dataset

REPO = Path(__file__).resolve().parent.parent
WORK, OUT = REPO/'runs'/'review', REPO/'results'/'review'
NET = dict(encoder='tu-tf_efficientnet_lite0', pyramid=64, segmentation=32, weights='imagenet')
BANDS = ['B04','B03','B02','B08']
STEPS, MORE, WINDOWS, SIZE, POOL = 96, 48, 20, 64, 6
SEEDS = range(5)
CHOSEN = 'random', 'entropy', 'disagreement' # the first is what the others are compared with
SHOWN = 'miou', 'iou_mine', 'precision_mine', 'recall_mine', 'false_alarms_1000km2'

def data(seed):
    "(folder, its index with a split, scenes to review, scenes to measure on)"
    folder = WORK/f'seed_{seed}'/'data'
    if not (folder/'index.csv').exists():
        synth_dataset(folder, n_coarse=0, n_fine=38, size=SIZE, n_scenes=14, scene_size=384, scene_mines=RARE,
                      climates=('A','C'), seed=500+seed)
    scenes = load_scenes(folder)
    return folder, site_split(load_index(folder), valid=.2, test=0, seed=seed), scenes[:POOL], scenes[POOL:]

def trained(learn, steps, seed, place):
    "A bundle of so many steps, whatever the number of chips"
    if not place.exists():
        with learn.no_logging(): learn.fit_poly(round(steps/len(learn.dls.train)), seed=seed)
        save_bundle(place, learn)
    return load_bundle(place)

def first(index, seed, place):
    "A network that learns from ImageNet weights and fine chips"
    set_seed(seed)
    dls = mine_dls(index, 'fine', BANDS, size=SIZE, bs=8, device='cpu', cache=True)
    return trained(teacher_learner(dls, lr=1e-3, **NET), STEPS, seed, place)

def further(bundle, index, seed, place):
    "The same network, fine-tuned on other chips"
    dls = mine_dls(index, 'fine', spec=bundle.spec, size=SIZE, bs=8, device='cpu', cache=True)
    return trained(c2f_learner(dls, bundle, 'finetune', lr=1e-3, keep_best=False), MORE, seed, place)

def correct(path, pool):
    "What a careful interpreter would do: the truth as outlines, every window done"
    windows = pyogrio.read_dataframe(path, layer='windows')
    truth = []
    for o in pool['mask']:
        y, _, grid = read_chip(o)
        truth.append(gpd.GeoDataFrame(geometry=mask_polygons(y[0]==1, grid), crs=grid.crs).to_crs(4326))
    outlines = pd.concat(truth, ignore_index=True).to_crs(windows.crs).assign(**{'class': 'mine'})
    outlines = outlines[outlines.intersects(windows.union_all())]
    windows.assign(status='done').to_file(path, layer='windows', engine='pyogrio')
    outlines.to_file(path, layer='outlines', engine='pyogrio')

def extended(by, seed, folder, index, pool, maps):
    "The index of the data set with 20 windows, chosen by `by`"
    place = WORK/f'seed_{seed}'
    if not (place/by).exists():
        (place/f'{by}.gpkg').unlink(missing_ok=True)
        review(maps, list(pool['image']), WINDOWS, place/f'{by}.gpkg', by=by, index=index, size=SIZE, seed=seed)
        correct(place/f'{by}.gpkg', pool)
        told = accept(place/f'{by}.gpkg', folder, list(pool['image']), place/by, index)
        assert (told['outcome']=='accepted').all(), told
    return load_index(place/by)

def measured(bundle, scenes):
    found = summarize_scenes(evaluate_scenes(bundle, scenes, device='cpu'))
    return {o: found[o] for o in SHOWN}

def repetition(seed):
    "Scores by row"
    place = WORK/f'seed_{seed}'
    folder, index, pool, test = data(seed)
    bundles = [first(index, 10*seed+k, place/f'bundle_{k}') for k in range(2)]
    maps = [place/'maps'/Path(o).name for o in pool['image']]
    for scene,path in zip(pool['image'], maps):
        if not path.exists(): predict_scene(bundles, scene, path, device='cpu', progress=False)
    chips = {'no windows': index} | {by: extended(by, seed, folder, index, pool, maps) for by in CHOSEN}
    scores = {}
    for by,o in chips.items():
        scores[by] = measured(further(bundles[0], o, 10*seed, place/f'bundle_{by.replace(" ", "_")}'), test)
        print(f'seed {seed}  {by:14}', {k: round(v, 4) for k,v in scores[by].items()}, flush=True)
    return scores

def run():
    torch.set_num_threads(1)
    for seed in SEEDS:
        path = OUT/f'seed_{seed}.json'
        if path.exists(): continue
        scores = repetition(seed)
        with atomic(path) as tmp: tmp.write_text(json.dumps(scores, indent=1))

def difference(x):
    "Mean of paired differences with its 95 % interval (Student's t over seeds)"
    half = stats.t.ppf(.975, len(x)-1)*x.std(ddof=1)/np.sqrt(len(x))
    return f'{x.mean():+.3f} [{x.mean()-half:+.3f}, {x.mean()+half:+.3f}] {(x>0).sum()}:{(x<0).sum()}'

def table():
    "Mean ± standard deviation over seeds, and the paired difference to random windows"
    found = [json.loads(o.read_text()) for o in sorted(OUT.glob('seed_*.json'))]
    lines = {}
    for row in ('no windows', *CHOSEN):
        scores = pd.DataFrame([o[row] for o in found])
        base = pd.DataFrame([o[CHOSEN[0]] for o in found])
        line = {o: f'{scores[o].mean():.3f} ± {scores[o].std():.3f}' for o in SHOWN[:-1]}
        line['false alarms / 1,000 km²'] = f'{scores[SHOWN[-1]].mean():.0f} ± {scores[SHOWN[-1]].std():.0f}'
        line['mIoU − random'] = '' if row==CHOSEN[0] else difference(scores['miou']-base['miou'])
        lines[row] = line | dict(seeds=len(found))
    return markdown(pd.DataFrame(lines).T.rename_axis('windows'))

if __name__=='__main__':
    if sys.argv[1:] not in ([], ['table']): sys.exit(__doc__)
    if not sys.argv[1:]: run()
    print(table())
