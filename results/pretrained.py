"""What ImageNet weights are worth on the synthetic data: the table in results/README.md.

    python results/pretrained.py         # train and measure what is missing: 12 trainings, about ten minutes on a CPU
    python results/pretrained.py table   # only the table of what is there

It needs the packages of `pip install 'minec2f[weights]'`. One file per row and seed in
results/pretrained_<bands>/seed_<k>/, as for the ladder.
"""
import sys
from pathlib import Path

import pandas as pd

from minec2f.chips import load_index
from minec2f.study.ladder import run_ladder
from minec2f.study.results import ladder_table, ladder_text, markdown
from minec2f.synth import synth_dataset

REPO = Path(__file__).resolve().parent.parent
BANDS = dict(rgb=['B04','B03','B02'], rgb_nir=['B04','B03','B02','B08'])
NET = dict(encoder='tu-tf_efficientnet_lite0', pyramid=64, segmentation=32)
SEEDS = 0, 1, 2
SHOWN = ['miou', 'miou - random', 'iou_mine', 'boundary_f']

def data():
    "160 coarse and 96 fine chips of 128 px, as for the ladder; made where absent"
    folder = REPO/'runs'/'ladder_data'
    if not (folder/'index.csv').exists(): synth_dataset(folder, size=128, n_coarse=160, n_fine=96, seed=100)
    return load_index(folder)

def start(weights):
    "The fine masks alone, from such weights: its teacher is not trained and only says what the network is"
    return 'fine_only', dict(encoder_lr_mult=1., teacher=dict(weights=weights))

def run():
    index, starts = data(), dict(random=start(None), imagenet=start('imagenet'))
    for name,bands in BANDS.items():
        run_ladder(index, starts, SEEDS, REPO/'results'/f'pretrained_{name}',
                   teacher=dict(epochs=0, **NET), student=dict(epochs=6, lr=1e-3),
                   loaders=dict(bands=bands, size=64, bs=8), split=dict(valid=.2, test=.35),
                   measure=dict(tolerance_m=20.))

def table():
    "Mean ± standard deviation over seeds, and the paired difference with its 95 % interval over sites and chips"
    parts = {}
    for name in BANDS:
        text = ladder_text(ladder_table(REPO/'results'/f'pretrained_{name}', ['random'], rows=['random','imagenet']))
        parts[name.replace('_', '+')] = text[SHOWN]
    whole = pd.concat(parts, names=['bands','weights']).reset_index()
    return markdown(whole.set_index('bands'))

if __name__=='__main__':
    if sys.argv[1:] not in ([], ['table']): sys.exit(__doc__)
    if not sys.argv[1:]: run()
    print(table())
