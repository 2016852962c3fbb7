"Several processes that share every batch learn what one process learns"
import os, subprocess, sys

import pytest, rasterio, torch

import in_processes
from minec2f.core import OptionError
from minec2f.synth import synth_dataset
from minec2f.training import read_training

METHODS = ['finetune', 'minec2f+'] # the second has all that minec2f has, coarse images and an average of its student
TORCHRUN = ['-m', 'torch.distributed.run', '--nproc-per-node', '2']

def launched(repo, *args):
    command = [sys.executable, '-W', 'ignore', *TORCHRUN, repo/'tests'/'in_processes.py', *args]
    env = os.environ | dict(PYTHONPATH=str(repo), OMP_NUM_THREADS='1')
    return subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Chips with labels everywhere, or in a corner alone"
    folder = synth_dataset(tmp_path_factory.mktemp('distributed')/'data', n_coarse=12, n_fine=16, size=64, n_scenes=0)
    for path in sorted((folder/'masks').glob('*.tif'))[::2]:
        with rasterio.open(path, 'r+') as f:
            y = f.read(1)
            y[16:,10:] = 255
            f.write(y, 1)
    return folder

def test_two_processes_learn_what_one_learns(repo, data, tmp_path):
    """With dropout, augmentation and uneven labels: losses of all steps, scores of all epochs, and weights

    Adam makes a step of every gradient, also of one that is rounding noise, so single weights may differ by more than
    losses do; a wrong gradient would move most of them by the learning rate, 1e-3."""
    done = launched(repo, data, tmp_path/'two', *METHODS)
    assert done.returncode==0, done.stderr[-3000:]
    # all students start from one teacher: what two teachers differ by, their students multiply
    in_processes.main(data, tmp_path/'one', *METHODS, start=tmp_path/'two'/'teacher.safetensors')
    for name in ('teacher', *METHODS):
        one, two = (read_training(tmp_path/o/f'{name}.safetensors') for o in ('one','two'))
        assert one['terms'].keys()==two['terms'].keys() and len(one['terms']['ce'])>=4
        for k,v in one['terms'].items(): assert torch.allclose(v, two['terms'][k], rtol=1e-4, atol=1e-5), (name, k)
        for k,v in one['weights'].items():
            gap = (v.double()-two['weights'][k].double()).abs()
            assert gap.mean()<1e-5 and gap.max()<1e-4, (name, k)
        assert torch.allclose(one['scores'], two['scores'], atol=1e-3, equal_nan=True), name
    assert sorted(o.name for o in (tmp_path/'two').iterdir())==sorted(o.name for o in (tmp_path/'one').iterdir())

def test_fastai_own_way_is_refused(data):
    coarse, _ = in_processes.loaders(data)
    with pytest.raises(OptionError, match='call join_processes'): in_processes.new_teacher(coarse).to_distributed()
