"""The ladder's tables of results/README.md: `python results/ladder.py synthetic` or `… tailings`; resumable, one file per row and seed in
results/<name>/seed_<k>/, which belong to the repository: a row that is there is not run again unless its file is removed.
A second argument names the seeds (`0,1`), a third the rows (`finetune,minec2f`);
`python results/ladder.py synthetic tables` makes the tables of what is there."""
import sys
from pathlib import Path

import numpy as np, pandas as pd

from minec2f.chips import UNLABELLED, load_index, read_index
from minec2f.core import atomic, look_up
from minec2f.study.falsify import falsification_report
from minec2f.study.ladder import run_ladder, seed_numbers
from minec2f.study.paperdata import rows_there
from minec2f.raster import write_raster
from minec2f.study.results import ladder_table, ladder_text, markdown
from minec2f.synth import synth_dataset, utm_grid

REPO = Path(__file__).resolve().parent.parent
REAL = REPO.parent/'shared'/'real'/'tailings_br' # not part of the project
NET = dict(encoder='tu-regnety_002', pyramid=64, segmentation=32)

def unlabelled(index): return index.assign(domain=UNLABELLED, id='u'+index['id'], site='u'+index['site'], mask='')

def recorded(folder, *args):
    "A data set with places as the recorded runs took them: as the table says, and without a size"
    said = read_index(folder)
    return load_index(folder, *args).assign(lon=said['lon'], lat=said['lat'], reach_km=0.)

def made(name, **kwargs):
    "A synthetic data set, made where absent"
    folder = REPO/'runs'/name
    if not (folder/'index.csv').exists(): synth_dataset(folder, size=128, **kwargs)
    return recorded(folder)

def synthetic():
    "160 coarse and 96 fine chips of 128 px, four bands; and 240 of the fine domain whose masks nobody sees"
    further = made('ladder_unlabelled', n_coarse=0, n_fine=240, seed=777, n_scenes=0)
    return pd.concat([made('ladder_data', n_coarse=160, n_fine=96, seed=100), unlabelled(further)], ignore_index=True)

def amazon():
    "Mines in the Amazon without masks: 749 chips of 48 px"
    folder, source = REPO/'runs'/'amazon', REAL.parent/'amazon_asgm'
    if not (folder/'index.csv').exists():
        sites, pixels = pd.read_csv(source/'index.csv').rename(columns=dict(longitude='lon', latitude='lat')), np.load(source/'chips_t1.npz')['x'][:,:3]
        index = sites[['lon','lat']].assign(id=[f'{o:04}' for o in sites.index], site=lambda t: t['id'], domain=UNLABELLED)
        with atomic(folder, kind='dataset') as tmp:
            tmp.mkdir()
            for row,x in zip(index.itertuples(), pixels):
                write_raster(tmp/'images'/f'{row.id}.tif', x.clip(1).astype(np.uint16), utm_grid(row.lon, row.lat, 48), nodata=0, names=['B02','B03','B04'])
            index.to_csv(tmp/'index.csv', index=False)
    return recorded(folder)

def tailings():
    "53 coarse and 29 fine chips of 256 px, three bands; and the Amazon's"
    return pd.concat([recorded(REAL, REAL/'coarse_polygons.gpkg'), unlabelled(amazon())], ignore_index=True)

DATA = dict( # index, bands, epochs of teacher and student, P(coarse label | background, mine)
    synthetic=(synthetic, ['B04','B03','B02','B08'], 6, 12, [[.87,.13],[.01,.99]]),
    tailings=(tailings, ['B04','B03','B02'], 5, 10, [[.8,.2],[.01,.99]]))

OTHERS = ('lwf lwf_twohead lwm mdil sppa ccda gsmf simcs_like joint er coarse_selftrain adaptsegnet fda dacs').split()

def rows(flip):
    "Every row: (method, options)"
    def distilled(weight, **options): return 'minec2f', options | dict(lambda_f=weight, lambda_p=weight)
    uniform = dict(feature_attention='uniform', prediction_attention='uniform')
    alone = dict(recall=flip[1][1], false_alarm=flip[0][1], lambda_f=0., lambda_p=0., lambda_c=0., lambda_e=0.)
    return {
        'coarse_only': 'coarse_only', 'fine_only': ('fine_only', dict(encoder_lr_mult=1.)), 'finetune': 'finetune',
        'minec2f': distilled(.1), 'uniform': distilled(.1, **uniform), 'shuffled': distilled(.1, prediction_attention='shuffled'),
        'minec2f_1': distilled(1.), 'uniform_1': distilled(1., **uniform), 'decay_1': distilled(1., kd_schedule='linear_decay'),
        'finetune_nogate': ('finetune', dict(teacher=dict(gate='none'))),
        'noise_aware': ('finetune', dict(teacher=dict(loss=dict(how='forward', flip=flip)))),
        'evidence': ('minec2f+', alone | dict(lambda_c=.3)), 'edge': ('minec2f+', alone | dict(lambda_e=.5)),
        'selftrain': ('minec2f+', alone | dict(lambda_u=1., unlabelled=True)), 'unlabelled': ('minec2f', dict(lambda_f=.1, lambda_p=.1, unlabelled=True)),
        'minec2f+': ('minec2f+', alone | dict(lambda_f=.1, lambda_p=.1, lambda_c=.3)),
        **{o: o for o in OTHERS}}

def run(name, seeds, wanted=()):
    data, bands, teacher, student, flip = look_up(name, DATA, 'data set')
    every = rows(flip)
    methods, index = {k: look_up(k, every, 'row') for k in wanted or every}, data()
    for seed in seeds:
        run_ladder(index, methods, [seed], REPO/'results'/name, teacher=dict(epochs=teacher, lr=1e-3, **NET),
                   student=dict(epochs=student, lr=1e-3, encoder_lr_mult=.3), loaders=dict(bands=bands, size=64, bs=8), split=dict(valid=.2, test=.35),
                   measure=dict(tolerance_m=20.))

def report(name, references=('finetune','fine_only','uniform')):
    "File name -> text: the tables of one data set, and what they refute"
    out = REPO/'results'/name
    there, missing = rows_there(out, list(rows(DATA[name][4])))
    found = {part: ladder_table(out, references, part=part, rows=there) for part in ('test','valid')}
    pages = [f'## {name}: fine {part} sites\n\n{markdown(ladder_text(t))}\n' for part,t in found.items()]
    return {f'{name}.md': ''.join(pages) + (f"\nNot measured: {', '.join(missing)}.\n" if missing else ''),
            f'{name}_falsification.md': f'## {name}\n\n' + '\n'.join(falsification_report(out, ours)[1] for ours in ('minec2f','minec2f+')),
            **{f'{name}_{part}.csv': t.to_csv() for part,t in found.items()}}

def summary(lines='coarse_only fine_only finetune minec2f uniform shuffled minec2f+ evidence noise_aware selftrain lwf_twohead mdil gsmf joint'.split()):
    "The table of results/README.md: some rows, both data sets"
    texts = {name: ladder_text(ladder_table(REPO/'results'/name, ['finetune'], rows=lines)) for name in DATA}
    return markdown(pd.concat([t[['miou','miou - finetune','boundary_f']].set_axis([f'{name}: mIoU', '− fine-tuning', 'boundary F'], axis=1)
                               for name,t in texts.items()], axis=1))

def write(texts):
    for name,text in texts.items():
        with atomic(REPO/'results'/name) as tmp: tmp.write_text(text)

if __name__=='__main__':
    if not 2<=len(sys.argv)<=4: sys.exit(__doc__)
    name, what, wanted = [*sys.argv[1:], *['', '0,1,2', ''][len(sys.argv)-1:]]
    look_up(name, DATA, 'data set')
    if what!='tables': run(name, seed_numbers(what), [o for o in wanted.split(',') if o])
    write(report(name))
