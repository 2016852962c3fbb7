"""What symmetries, ensembles, a temperature and more overlap are worth: the table in results/README.md.

    python results/probabilities.py         # train three models and measure what is missing, 15 minutes on a CPU
    python results/probabilities.py table   # only the table of what is there

It needs the packages of `pip install 'minec2f[weights]'`. One file per row and seed in results/probabilities/seed_<k>/,
as for the ladder. The three models share the split of seed 0, so that they can be asked together; they lie in
runs/probabilities.
"""
import json, sys, time
from pathlib import Path

import numpy as np, pandas as pd, torch
from scipy.special import softmax

from minec2f.bundle import load_bundle
from minec2f.chips import load_index, read_label
from minec2f.core import atomic
from minec2f.evaluate import score_chip
from minec2f.maps import mean_logits
from minec2f.predict import predict_array, predict_scene
from minec2f.raster import read_grid
from minec2f.sliding import mean_of_symmetries
from minec2f.splits import site_split
from minec2f.study.calibration import brier, confidence_and_hit, ece, fit_temperature
from minec2f.study.ladder import run_ladder
from minec2f.study.results import PARTS, ladder_table, ladder_text, markdown, read_result, result_paths, write_result
from minec2f.synth import synth_dataset

REPO = Path(__file__).resolve().parent.parent
MODELS, OUT = REPO/'runs'/'probabilities', REPO/'results'/'probabilities'
NET = dict(encoder='tu-tf_efficientnet_lite0', pyramid=64, segmentation=32, weights='imagenet')
SPLIT = dict(valid=.2, test=.35)
TIMES = OUT/'times.json'
SEEDS = 0, 1, 2
TOLERANCE_M = 20.
FIRST = 'one model' # what all rows are compared with

# --- data and models

def data():
    "60 fine chips of 192 px, larger than the windows; the 24 coarse ones only give the statistics"
    folder = REPO/'runs'/'probabilities_data'
    if not (folder/'index.csv').exists():
        synth_dataset(folder, size=192, n_coarse=24, n_fine=60, seed=300, scene_size=512)
    return load_index(folder)

def train(index):
    "Three networks on the same fine masks, from ImageNet weights; each differs in its seed"
    recipe = dict(fine_only=('fine_only', dict(encoder_lr_mult=1.)))
    run_ladder(index, recipe, SEEDS, MODELS, teacher=dict(epochs=0, **NET), student=dict(epochs=16, lr=1e-3),
               loaders=dict(size=128, bs=8, device='cpu'), split=SPLIT, splits='fixed',
               measure=dict(tolerance_m=TOLERANCE_M), keep=True)

# --- rows

ALONE = { # row: arguments of `Model.scores`
    FIRST: {},
    'temperature': dict(fitted=True),
    'overlap .75': dict(overlap=.75),
    'tta': dict(tta=True),
    'tta, mean of probabilities': dict(averaged=True),
    'tta, temperature': dict(tta=True, fitted=True),
    'tta, overlap .75': dict(tta=True, overlap=.75)}
TOGETHER = { # likewise, of all models
    'ensemble': {},
    'ensemble, temperature': dict(fitted=True),
    'ensemble, tta': dict(tta=True),
    'ensemble, tta, temperature': dict(tta=True, fitted=True)}

class MeanProbability(torch.nn.Module):
    "The eight symmetries averaged as probabilities, where the library averages scores"
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x): return mean_of_symmetries(lambda o: self.model(o).softmax(1), x).log()

class Model:
    "A trained model, which is asked each question once"
    def __init__(self, seed, parts):
        self.parts, self.kept = parts, {}
        self.result = read_result(MODELS/f'seed_{seed}'/'fine_only.json')
        self.bundle, self.averaged = (load_bundle(MODELS/f'seed_{seed}'/'fine_only') for _ in range(2))
        self.averaged.model = MeanProbability(self.averaged.model).eval()
        self.temperature = fit_temperature(self.bundle, parts['valid'], device='cpu')
        print(f'seed {seed}: temperature {self.temperature:.3f}', flush=True)

    def scores(self, part, fitted=False, averaged=False, **options):
        "(2,H,W) of each chip"
        asked, key = self.averaged if averaged else self.bundle, (part, averaged, *options.items())
        if key not in self.kept:
            self.kept[key] = [predict_array(asked, o, device='cpu', **options)[0] for o in self.parts[part]['image']]
        return [o/(self.temperature if fitted else 1) for o in self.kept[key]]

# --- measures

def measured(chips, logits):
    "(table of all chips; ECE and Brier score of all pixels together)"
    truth = [read_label(o, None) for o in chips.to_dict('records')]
    rows = zip(chips.to_dict('records'), logits, truth)
    table = pd.DataFrame([dict(id=o['id'], site=o['site']) | score_chip(z.argmax(0), y, read_grid(o['image']),
                                                                        tolerance_m=TOLERANCE_M) for o,z,y in rows])
    said = [confidence_and_hit(softmax(o, axis=0), y) for o,y in zip(logits, truth)]
    p, hit = map(np.concatenate, zip(*said))
    return table, dict(ece=ece(p, hit), brier=brier(p, hit))

def file(seed, name): return OUT/f'seed_{seed}'/f"{name.replace(', ', '-').replace(' ', '_')}.json"

def measure(name, seed, model, logits):
    "One row of one seed"
    found = {part: measured(model.parts[part], o) for part,o in logits.items()}
    config = {o: model.result['config'][o] for o in ('data','split_hash','measure')}
    made = {o: model.result[o] for o in ('steps','seconds')} | dict(temperature=model.temperature)
    write_result(file(seed, name), name, seed, config, {part: table for part,(table,_) in found.items()}, **made,
                 numbers={part: o for part,(_,o) in found.items()})
    print(f'seed {seed}  {name:28}', found['valid'][1], flush=True)

def run():
    torch.set_num_threads(1)
    index = data()
    if not all((MODELS/f'seed_{k}'/'fine_only').exists() for k in SEEDS): train(index)
    index = site_split(index, seed=0, **SPLIT)
    fine = index[index['domain']=='fine']
    parts = {part: fine[fine['split']==part] for part in PARTS}
    models = {k: Model(k, parts) for k in SEEDS}
    for name,how in ALONE.items():
        for k,model in models.items():
            if not file(k, name).exists(): measure(name, k, model, {o: model.scores(o, **how) for o in parts})
    for name,how in TOGETHER.items(): # the same map is held against each of the three
        if all(file(k, name).exists() for k in SEEDS): continue
        each = {o: zip(*(model.scores(o, **how) for model in models.values())) for o in parts}
        logits = {part: [mean_logits(np.stack(o)) for o in chips] for part,chips in each.items()}
        for k,model in models.items(): measure(name, k, model, logits)
    if not TIMES.exists(): measure_times([o.bundle for o in models.values()])

# --- time

def measure_times(bundles, repeats=3):
    "Processor time to map a scene, in turns, by one thread"
    asked = {FIRST: (bundles[0], {}), 'overlap .75': (bundles[0], dict(overlap=.75)),
             'tta': (bundles[0], dict(tta=True)), 'tta, overlap .75': (bundles[0], dict(tta=True, overlap=.75)),
             'ensemble': (bundles, {}), 'ensemble, tta': (bundles, dict(tta=True))}
    scene = REPO/'runs'/'probabilities_data'/'scenes'/'s0000.tif'
    took = {name: [] for name in asked}
    for _ in range(repeats):
        for name,(bundle,options) in asked.items():
            start = time.process_time()
            predict_scene(bundle, scene, MODELS/'map.tif', device='cpu', progress=False, **options)
            took[name].append(time.process_time()-start)
    with atomic(TIMES) as tmp: tmp.write_text(json.dumps(took, indent=1))

# --- the table

def calibration(part):
    "Row -> ece, brier: means over seeds, as text"
    files = map(read_result, result_paths(OUT))
    lines = pd.DataFrame([dict(row=o['name'], **o['numbers'][part]) for o in files])
    return lines.groupby('row')[['ece','brier']].mean().map('{:.4f}'.format)

def ratios():
    "Name of a row -> median processor time to that of one model"
    median = pd.DataFrame(json.loads(TIMES.read_text())).median()
    return median/median[FIRST]

def table():
    "Mean ± standard deviation over three models, and the paired difference with its 95 % interval over sites and chips"
    names, parts = [*ALONE, *TOGETHER], {}
    for part in ('valid','test'):
        text = ladder_text(ladder_table(OUT, [FIRST], part, rows=names))[['miou', f'miou - {FIRST}', 'boundary_f']]
        parts[part] = text.join(calibration(part))
    whole = pd.concat(parts, axis=1)
    whole.columns = [f'{part}: {o}' for part,o in whole.columns]
    return markdown(whole.assign(time=ratios().map('{:.1f}'.format).reindex(names).fillna('')))

if __name__=='__main__':
    if sys.argv[1:] not in ([], ['table']): sys.exit(__doc__)
    if not sys.argv[1:]: run()
    print(table())
