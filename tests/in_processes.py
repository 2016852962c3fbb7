"""Train a teacher and students on a few chips, alone or as one of several processes (torchrun): what tests compare.

`python tests/in_processes.py data out method …` writes out/<method>.safetensors: losses, scores and weights."""
import sys
from pathlib import Path

import torch

from minec2f.chips import load_index
from minec2f.core import together
from minec2f.data import mine_dls
from minec2f.distributed import join_processes
from minec2f.learner import FreezeBN, c2f_learner, teacher_learner
from minec2f.models import plain
from minec2f.splits import site_split
from minec2f.training import read_training, write_training

BANDS = ['B04','B03','B02','B08']
OPTIONS = dict(sppa=dict(warm_steps=2), er=dict(memory=5))

def loaders(data, bs=4):
    index = site_split(load_index(data))
    coarse = mine_dls(index, 'coarse', BANDS, size=64, bs=bs, device='cpu')
    return coarse, mine_dls(index, 'fine', spec=coarse.spec, size=64, bs=bs, device='cpu')

def new_teacher(coarse, **kwargs):
    torch.manual_seed(together.rank)  # weights are those of the first process
    return teacher_learner(coarse, lr=1e-3, encoder='resnet18', pyramid=64, segmentation=64, cbs=FreezeBN(), **kwargs)

def found(learn):
    "All that a training leaves: losses of each step, scores of each epoch, weights"
    terms = {k: torch.stack(v) for k,v in learn.loss_terms.history.items()}
    scores = torch.tensor([[torch.nan if o is None else o for o in row] for row in learn.recorder.values])
    return dict(terms=terms, scores=scores, weights=plain(learn.model).state_dict())

def train(learn, checkpoint=None, epochs=2):
    with learn.no_bar(), learn.no_logging(): learn.fit_poly(epochs, seed=0, checkpoint=checkpoint)
    return found(learn)

def main(
    data,     # Folder of chips
    out,      # Where results go
    *methods, # Names
    start=None, # File of the teacher that students start from; the one trained here where None
):
    join_processes()
    coarse, fine = loaders(data)
    teacher = new_teacher(coarse)
    write_training(Path(out)/'teacher.safetensors', train(teacher, Path(out)/'checkpoint'))
    again = train(new_teacher(coarse), Path(out)/'checkpoint')  # it is finished, and every process finds it
    assert all(torch.equal(v, again['weights'][k]) for k,v in teacher.model.state_dict().items())
    if start: plain(teacher.model).load_state_dict(read_training(start)['weights'])
    for name in methods:
        learn = c2f_learner(fine, teacher, name, coarse, lr=1e-3, bn='frozen', **OPTIONS.get(name, {}))
        write_training(Path(out)/f'{name}.safetensors', train(learn))

if __name__=='__main__': main(*sys.argv[1:])
