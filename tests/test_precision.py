"Forward passes in bfloat16 keep what every training must keep"
import torch
from fastai.torch_core import set_seed
from safetensors.torch import load_file

from minec2f.bundle import save_bundle
from minec2f.chips import load_index
from minec2f.data import mine_dls
from minec2f.learner import c2f_learner, teacher_learner
from minec2f.method import examine
from minec2f.splits import site_split
from minec2f.synth import synth_dataset
from minec2f.training import BFloat16

BANDS = ['B04','B03','B02','B08']
NET = dict(encoder='tu-mobilenetv3_small_050', pyramid=32, segmentation=32)

def test_a_student_in_bfloat16(tmp_path):
    index = site_split(load_index(synth_dataset(tmp_path/'data', n_coarse=8, n_fine=8, size=64, seed=0)))
    coarse = mine_dls(index, 'coarse', BANDS, size=32, bs=16, device='cpu')
    fine = mine_dls(index, 'fine', spec=coarse.spec, size=32, bs=8, device='cpu')
    set_seed(0)
    teacher = teacher_learner(coarse, **NET).model
    learners = {k: c2f_learner(fine, teacher, 'minec2f', lr=1e-4, keep_best=False, cbs=o)
                for k,o in dict(full=None, half=BFloat16()).items()}
    for o in learners.values():
        with o.no_bar(), o.no_logging(): o.fit(1, seed=3)
    first = {k: torch.stack(o.recorder.losses)[0] for k,o in learners.items()}
    assert first['full']!=first['half'] and torch.isclose(first['full'], first['half'], rtol=.02)
    examine(learners['half'])  # no pixel without a label has a gradient, the teacher stays, terms add up
    folder = save_bundle(tmp_path/'bundle', learners['half'])
    weights = load_file(next(tmp_path.glob('bundle/*.safetensors')))
    assert {o.dtype for o in weights.values() if o.is_floating_point()}=={torch.float32}, folder
    assert all(o.isfinite().all() for o in weights.values() if o.is_floating_point())
