"""The ladders' tables of results/README.md.

    python results/ladder.py synthetic                     # or another of DATA: every row with seeds 0, 1 and 2
    python results/ladder.py tailings 3,4 finetune,minec2f # these seeds, these rows
    python results/ladder.py synthetic tables              # only the tables of what is there

It may be stopped and started again, and started several times side by side: one file per row and seed in
results/<name>/seed_<k>/. The files belong to the repository: a row that is there is not run again unless its file is
removed.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np, pandas as pd

from minec2f.chips import UNLABELLED, load_index, load_scenes
from minec2f.core import atomic, look_up
from minec2f.raster import write_raster
from minec2f.splits import drop_near
from minec2f.study.falsify import falsification_report
from minec2f.study.ladder import run_ladder, seed_numbers
from minec2f.study.paperdata import ablations, rows_there
from minec2f.study.paper import difference_text
from minec2f.study.results import (
    ladder_differences, ladder_table, ladder_text, markdown, read_ladder, validation_curves)
from minec2f.viz import save_figure
from minec2f.synth import RARE, synth_dataset, utm_grid

REPO = Path(__file__).resolve().parent.parent
REAL = REPO.parent/'shared'/'real'/'tailings_br' # not part of the project
NET = dict(encoder='tu-tf_efficientnet_lite0', weights='imagenet', pyramid=64, segmentation=32)

# --- data

def unlabelled(index): return index.assign(domain=UNLABELLED, id='u'+index['id'], site='u'+index['site'], mask='')

def made(name, **kwargs):
    "Folder of a synthetic data set, made where absent"
    folder = REPO/'runs'/name
    if not (folder/'index.csv').exists(): synth_dataset(folder, **kwargs)
    return folder

def whole(folder):
    "Index of a synthetic data set, 240 chips of 128 px whose masks nobody sees among it, and its scenes"
    further = load_index(made('ladder_unlabelled', n_coarse=0, n_fine=240, size=128, seed=777, n_scenes=0))
    scenes = load_scenes(folder).sort_values('mines', ascending=False, kind='stable')  # seams: on those with most mines
    return pd.concat([load_index(folder), unlabelled(further)], ignore_index=True), scenes

# chips of 192 px with four bands; a mine lies anywhere within the middle 70 % of its chip
WORLD = dict(n_coarse=160, size=192, seed=100, spread=.35, scene_size=512, scene_mines=RARE)

def synthetic():
    "48 fine chips, of which about 21 are trained on; one chip in four has no mine; 12 scenes"
    return whole(made('ladder', n_fine=48, empty=.25, n_scenes=12, **WORLD))

def synthetic_plenty():
    "96 fine chips, of which about 43 are trained on; one chip in seven has no mine; 16 scenes"
    return whole(made('ladder_plenty', n_fine=96, empty=.15, n_scenes=16, **WORLD))

def write_amazon(folder, source):
    "A data set of the chips in `source`, three bands each"
    sites = pd.read_csv(source/'index.csv').rename(columns=dict(longitude='lon', latitude='lat'))
    index = sites[['lon','lat']].assign(id=[f'{o:04}' for o in sites.index])
    index = index.assign(site=index['id'], domain=UNLABELLED)
    pixels = np.load(source/'chips_t1.npz')['x'][:,:3]  # (n,3,48,48)
    with atomic(folder, kind='dataset') as tmp:
        tmp.mkdir()
        for row,x in zip(index.itertuples(), pixels):
            write_raster(tmp/'images'/f'{row.id}.tif', x.clip(1).astype(np.uint16), utm_grid(row.lon, row.lat, 48),
                         nodata=0, names=['B02','B03','B04'])
        index.to_csv(tmp/'index.csv', index=False)

def tailings():
    """51 coarse and 25 fine chips of 256 px, three bands, 749 of 48 px without masks (mines in the Amazon), 3 scenes

    What lies in or near these scenes is left out: no network has seen the scenes' ground."""
    folder = REPO/'runs'/'amazon'
    if not (folder/'index.csv').exists(): write_amazon(folder, REAL.parent/'amazon_asgm')
    scenes = load_scenes(REAL)
    labelled = load_index(REAL, REAL/'coarse_polygons.gpkg')
    every = pd.concat([labelled, unlabelled(load_index(folder))], ignore_index=True)
    return drop_near(every, scenes), scenes

@dataclass(frozen=True)
class Data:
    "What a ladder is run on, and for how long"
    make:object         # Function that gives index and scenes
    bands:list          # Names
    teacher_epochs:int
    student_epochs:int
    flip:list           # P(coarse label | background, mine), as measured on its coarse chips
    seams:int = 2       # Scenes that show what a map knows of its windows

RGB, RGBN = ['B04','B03','B02'], ['B04','B03','B02','B08']
DATA = dict( # about 300 steps of the teacher and 270 of a student
    synthetic=Data(synthetic, RGBN, 5, 25, [[.97,.03],[.01,.99]]),
    tailings=Data(tailings, RGB, 12, 44, [[.8,.2],[.01,.99]]),
    # twice as many steps of a student; recorded on a GPU
    synthetic_plenty=Data(synthetic_plenty, RGBN, 5, 25, [[.97,.03],[.01,.99]], 3),
    tailings_long=Data(tailings, RGB, 12, 106, [[.8,.2],[.01,.99]], 3))

# --- rows

AS_THEY_ARE = [ # methods without options
    'lwf', 'lwf_twohead', 'lwm', 'mdil', 'sppa', 'ccda', 'gsmf', 'attnfd', 'bakd', 'simcs_like', 'joint', 'er',
    'coarse_selftrain', 'adaptsegnet', 'fda', 'dacs']
ADAPT = 'adaptsegnet', 'fda', 'dacs'
BATCH_NORM = 'coarse_only', 'fine_only', 'finetune', 'minec2f', 'evidence', 'minec2f+' # also with batch normalisation
CLAIMS = [ # rows that claims rest on, those first that all others are held against
    'coarse_only', 'fine_only', 'finetune', 'minec2f', 'evidence', 'noise_aware', 'minec2f+', 'noise_aware_evidence',
    'uniform', 'shuffled', 'minec2f_fade', *[f'{o}_batchnorm' for o in BATCH_NORM], 'noise_aware_minec2f',
    'fine_only_long']

def rows(data):
    "Every row: its name, and a method or (method, options)"
    parts = ablations()
    def distilled(**options): return 'minec2f', parts['minec2f'][1] | options
    (_, false_alarm), (_, recall) = data.flip
    known = dict(recall=recall, false_alarm=false_alarm)
    def beyond(**options): # minec2f+ with nothing but these terms
        off = dict(lambda_f=0., lambda_p=0., lambda_c=0., lambda_e=0.)
        return 'minec2f+', known | off | options
    def with_teacher(row, **teacher):
        method, options = row if isinstance(row, tuple) else (row, {})
        return method, options | dict(teacher=teacher)
    noise_aware = dict(loss=dict(how='forward', flip=data.flip))
    from_scratch = dict(encoder_lr_mult=1.)
    both_stages = 3*data.student_epochs//2 # as many steps as teacher and student together
    main = {
        'coarse_only': 'coarse_only',
        'fine_only': ('fine_only', from_scratch),
        'fine_only_long': ('fine_only', from_scratch | dict(epochs=both_stages)),
        'finetune': 'finetune',
        **{o: parts[o] for o in ('minec2f','uniform','shuffled')},
        'minec2f_fade': distilled(kd_schedule='linear_decay'),
        'evidence': beyond(lambda_c=.3),
        'minec2f+': ('minec2f+', known | dict(lambda_f=.1, lambda_p=.1, lambda_c=.3)),
        'noise_aware': with_teacher('finetune', **noise_aware),
        'noise_aware_minec2f': with_teacher(distilled(), **noise_aware),
        'noise_aware_evidence': with_teacher(beyond(lambda_c=.3), **noise_aware)}
    leads = {
        'evidence_to_end': beyond(lambda_c=.3, coarse_until=1.),
        'evidence_strong': beyond(lambda_c=1.),
        'edge': beyond(lambda_e=.5),
        'selftrain': beyond(lambda_u=1., unlabelled=True),
        'unlabelled': distilled(unlabelled=True),
        'displaced': distilled(mu_b=15., sigma_b=10.), # as measured on 136 mines
        **{o: parts[o] for o in ('minec2f_1','uniform_1','fade_1')},
        'longer_teacher': with_teacher('finetune', epochs=2*data.teacher_epochs),
        'finetune_nogate': with_teacher('finetune', gate='none')}
    batch_norm = {f'{o}_batchnorm': with_teacher(main[o], norm='batch') for o in BATCH_NORM}
    blind = {f'{o}_blind': (o, dict(target_labels='none')) for o in ADAPT} # to fine labels, also of validation sites
    published = {o: o for o in AS_THEY_ARE} | dict(mdil=('mdil', dict(encoder_lr_mult=.01)))  # the release's ratio
    return main | leads | batch_norm | published | blind | parts

def recipe(data):
    "What all rows share, as `run_ladder` takes it"
    return dict(
        teacher=dict(epochs=data.teacher_epochs, lr=1e-3, **NET),
        student=dict(epochs=data.student_epochs, lr=1e-3, encoder_lr_mult=.3),
        loaders=dict(bands=data.bands, size=128, bs=8), split=dict(valid=.2, test=.35),
        measure=dict(tolerance_m=20.), scene_measure=dict(min_area_ha=.5), coarse_measure={}, seams=data.seams)

def run(name, seeds, wanted=()):
    "Train and measure what is missing, seed by seed"
    data = look_up(name, DATA, 'data set')
    every = rows(data)
    methods = {k: look_up(k, every, 'row') for k in wanted or every}
    index, scenes = data.make()
    run_ladder(index, methods, seeds, REPO/'results'/name, scenes=scenes, **recipe(data))

# --- tables

REFERENCES = 'finetune', 'fine_only', 'uniform'

def measured(): return [o for o in DATA if (REPO/'results'/o).is_dir()] # data sets that have results

def report(name):
    "File name -> text: the tables of one data set, and what they refute"
    out = REPO/'results'/name
    there, missing = rows_there(out, list(rows(DATA[name])))
    references = [o for o in REFERENCES if o in there]
    texts, page = {}, ''
    for part in ('test','valid'):
        table = ladder_table(out, references, part=part, rows=there)
        texts[f'{name}_{part}.csv'] = table.to_csv()
        page += f'## {name}: fine {part} sites\n\n{markdown(ladder_text(table))}\n'
    if missing: page += f"\nNot measured: {', '.join(missing)}.\n"
    claims = [falsification_report(out, ours)[1] for ours in ('minec2f','minec2f+') if ours in there]
    return texts | {f'{name}.md': page, f'{name}_falsification.md': f'## {name}\n\n' + '\n'.join(claims)}

SHOWN = {'miou': 'mIoU', 'miou - finetune': '− fine-tuning', 'boundary_f': 'boundary F', 'scene_miou': 'scenes: mIoU',
         'scene_false_alarms_1000km2': 'false alarms / 1,000 km²', 'seeds': 'seeds'}

def summary(name):
    "The table of results/README.md: rows that claims rest on"
    out = REPO/'results'/name
    text = ladder_text(ladder_table(out, ['finetune'], rows=rows_there(out, CLAIMS)[0]))
    return markdown(text[[*SHOWN]].rename(columns=SHOWN))

def gain(table, row, reference):
    "Difference of mIoU between two rows of a table from `read_ladder`, as text"
    lines = ladder_differences(table[table['name'].isin([row, reference])], [reference])
    return difference_text(lines.set_index('metric').loc['miou']) if len(lines) else ''

def normalised(name):
    "The table of results/README.md: rows with batch normalisation against the same without, and against fine masks"
    valid, test = (read_ladder(REPO/'results'/name, o) for o in ('valid','test'))
    lines = {}
    for o in BATCH_NORM:
        row = f'{o}_batchnorm'
        if row not in set(test['name']): continue
        alone = '' if o=='fine_only' else gain(test, row, 'fine_only_batchnorm')
        lines[row] = {'validation: − without': gain(valid, row, o), 'test: − without': gain(test, row, o),
                      'test: − fine_only_batchnorm': alone}
    return markdown(pd.DataFrame(lines).T.rename_axis('row'))

def curves():
    "Validation mIoU of the rows that must have levelled off"
    return validation_curves({o: REPO/'results'/o for o in measured()}, ['fine_only','finetune','minec2f'])

def write(texts):
    for name,text in texts.items():
        with atomic(REPO/'results'/name) as tmp: tmp.write_text(text)

def main(name, what='0,1,2', wanted=''):
    look_up(name, DATA, 'data set')
    if what!='tables': run(name, seed_numbers(what), [o for o in wanted.split(',') if o])
    write(report(name))
    save_figure(curves(), REPO/'results'/'curves.png')

if __name__=='__main__':
    if not 2<=len(sys.argv)<=4: sys.exit(__doc__)
    main(*sys.argv[1:])
