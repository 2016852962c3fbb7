"""The ladder's tables of the README: `python results/ladder.py synthetic` or `… tailings`; resumable, one file per row and seed in runs/.
A second argument names the seeds (`0,1`); `tables` writes the tables of what is there already."""
import sys
from pathlib import Path

from minec2f.chips import load_index
from minec2f.core import atomic
from minec2f.falsify import falsification_report
from minec2f.ladder import run_ladder
from minec2f.paperdata import rows_there
from minec2f.results import ladder_table, ladder_text, markdown
from minec2f.synth import synth_dataset

REPO = Path(__file__).resolve().parent.parent
REAL = REPO.parent/'shared'/'real'/'tailings_br'
NET = dict(encoder='tu-regnety_002', pyramid=64, segmentation=32)

def synthetic():
    "160 coarse and 96 fine chips of 128 px, four bands; made where absent"
    folder = REPO/'runs'/'ladder_data'
    if not (folder/'index.csv').exists(): synth_dataset(folder, n_coarse=160, n_fine=96, size=128, seed=100)
    return load_index(folder)

DATA = dict( # index, bands, epochs of teacher and student, P(coarse label | background, mine)
    synthetic=(synthetic, ['B04','B03','B02','B08'], 6, 12, [[.87,.13],[.01,.99]]),
    tailings=(lambda: load_index(REAL, REAL/'coarse_polygons.gpkg'), ['B04','B03','B02'], 5, 10, [[.8,.2],[.01,.99]]))

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
        'minec2f+': ('minec2f+', alone | dict(lambda_f=.1, lambda_p=.1, lambda_c=.3)),
        **{o: o for o in OTHERS}}

def run(name, seeds):
    index, bands, teacher, student, flip = DATA[name][0](), *DATA[name][1:]
    for seed in seeds:
        run_ladder(index, rows(flip), [seed], REPO/'runs'/f'ladder_{name}', teacher=dict(epochs=teacher, lr=1e-3, **NET),
                   student=dict(epochs=student, lr=1e-3, encoder_lr_mult=.3), loaders=dict(bands=bands, size=64, bs=8), split=dict(valid=.2, test=.35),
                   measure=dict(tolerance_m=20.))

def write(name, text):
    with atomic(REPO/'results'/name) as tmp: tmp.write_text(text)

def tables(name, references=('finetune','fine_only','uniform')):
    out = REPO/'runs'/f'ladder_{name}'
    there, missing = rows_there(out, list(rows(DATA[name][4])))
    found = {part: ladder_table(out, references, part=part, rows=there) for part in ('test','valid')}
    write(f'{name}.md', ''.join(f'## {name}: fine {part} sites\n\n{markdown(ladder_text(t))}\n' for part,t in found.items())
          + (f"\nNot measured: {', '.join(missing)}.\n" if missing else ''))
    for part,t in found.items(): t.to_csv(REPO/'results'/f'{name}_{part}.csv')
    write(f'{name}_falsification.md', f'## {name}\n\n' + '\n'.join(falsification_report(out, ours)[1] for ours in ('minec2f','minec2f+')))

if __name__=='__main__':
    name, what = sys.argv[1], sys.argv[2] if len(sys.argv)>2 else '0,1,2'
    if what!='tables': run(name, map(int, what.split(',')))
    tables(name)
