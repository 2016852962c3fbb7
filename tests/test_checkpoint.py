"A training that was stopped, by an exception or a SIGKILL, goes on to the same weights, bit for bit, as if it was not."
import copy, random, signal, subprocess, sys, time
from types import SimpleNamespace

import pandas as pd, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.torch_core import set_seed

from minec2f.chips import load_index
from minec2f.core import DatasetError, OptionError, TrainingError, WriteError
from minec2f.data import mine_dls
from minec2f.learner import c2f_learner, teacher_learner
from minec2f.method import METHODS
from minec2f.splits import site_split
from minec2f.synth import synth_dataset

BANDS = ['B04','B03','B02','B08']
NET = dict(encoder='tu-mobilenetv3_small_050', pyramid=32, segmentation=32)
OPTIONS = {'sppa': dict(warm_steps=2), 'er': dict(memory=5, kd=.5), 'minec2f+': dict(lambda_u=.5),
           'dacs': dict(bn='dual')}

def make_world(folder):
    "Loaders of windows of 32 px and a teacher that has learned nothing"
    if not folder.exists(): synth_dataset(folder, n_coarse=8, n_fine=8, size=64, seed=0)
    index = site_split(load_index(folder))
    fine_train = index[(index['domain']=='fine') & (index['split']=='train')]
    index = pd.concat([index, fine_train.head(3).assign(domain='unlabelled')])
    coarse = mine_dls(index, 'coarse', BANDS, size=32, bs=16, device='cpu')
    fine = mine_dls(index, 'fine', spec=coarse.spec, size=32, bs=8, device='cpu')
    unlabelled = mine_dls(index, 'unlabelled', spec=coarse.spec, size=32, bs=8, device='cpu')
    set_seed(0)
    teacher = teacher_learner(coarse, **NET).model
    return SimpleNamespace(folder=folder, coarse=coarse, fine=fine, unlabelled=unlabelled, teacher=teacher)

@pytest.fixture(scope='module')
def world(tmp_path_factory): return make_world(tmp_path_factory.mktemp('checkpoint')/'data')

def learner(world, name, **more):
    "An untrained learner of a method, the same each time"
    set_seed(0)
    if name=='teacher': return teacher_learner(world.coarse, lr=1e-3, **NET, **more)
    options = OPTIONS.get(name, {}) | more
    if name in ('minec2f','minec2f+'): options |= dict(unlabelled_dls=world.unlabelled)
    return c2f_learner(world.fine, world.teacher, name, coarse_dls=world.coarse, lr=1e-3, **options)

def trained(learn, epochs=2, **kwargs):
    "The learner after a training"
    with learn.no_bar(), learn.no_logging(): learn.fit_poly(epochs, seed=0, **kwargs)
    return learn

class StopAt(Callback):
    "Like a power cut, in the middle of an epoch"
    order = 2000
    run_valid = False
    def __init__(self, epoch, batch=0): self.at = epoch, batch
    def after_batch(self):
        if (self.epoch, self.iter)==self.at: raise InterruptedError('stopped')

def interrupted(learn, epoch=1, cbs=(), **kwargs):
    "Train until `StopAt`"
    with pytest.raises(InterruptedError): trained(learn, cbs=[*cbs, StopAt(epoch)], **kwargs)

class StopAtTheEnd(Callback):
    "Like a power cut after the last epoch, before the training has ended"
    order = 999
    run_valid = False
    def after_fit(self): raise InterruptedError('stopped')

def same_weights(a, b): # state dicts
    return a.keys()==b.keys() and all(torch.equal(v, b[k]) for k,v in a.items())

def same(a, b): # learners
    return same_weights(a.model.state_dict(), b.model.state_dict())

def losses(learn): return {k: torch.stack(v).tolist() for k,v in learn.loss_terms.history.items()}

@pytest.mark.parametrize('name', ['teacher', *METHODS])
def test_every_method_goes_on(name, world, tmp_path):
    whole = trained(learner(world, name))
    interrupted(learner(world, name), checkpoint=tmp_path)
    random.seed(5)  # another process would be in another state
    torch.manual_seed(5)
    again = trained(learner(world, name), checkpoint=tmp_path)
    assert same(again, whole)
    assert losses(again)==losses(whole)
    assert [list(o) for o in again.recorder.values]==[list(o) for o in whole.recorder.values]
    # what is finished is not trained again
    done = trained(learner(world, name), checkpoint=tmp_path, cbs=StopAt(0))
    assert same(done, whole) and len(done.recorder.values)==2

@pytest.mark.parametrize('name', ['er','adaptsegnet','sppa']) # which take something from one training to the next
def test_a_further_training_goes_on_alike(name, world, tmp_path):
    whole = trained(learner(world, name), 1, checkpoint=tmp_path)
    done = trained(learner(world, name), 1, checkpoint=tmp_path)
    assert same(trained(done, 1), trained(whole, 1))

def test_stopped_between_the_last_epoch_and_the_end(world, tmp_path):
    "The best epoch and the curves are those of an unbroken training"
    whole = trained(learner(world, 'finetune'))
    with pytest.raises(InterruptedError):
        trained(learner(world, 'finetune'), checkpoint=tmp_path, cbs=StopAtTheEnd())
    again = trained(learner(world, 'finetune'), checkpoint=tmp_path)
    assert same(again, whole)
    assert again.keep_best.epoch_kept==whole.keep_best.epoch_kept
    assert len(again.recorder.values)==2
    assert again.recorder.values==whole.recorder.values

@pytest.mark.parametrize('wrong', [dict(checkpoint=''), dict(checkpoint=True), dict(power='a'), dict(power=-1),
                                   dict(warmup=None), dict(seed=1.5)])
def test_an_odd_argument_is_named_before_training(world, wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))): learner(world, 'finetune').fit_poly(1, **wrong)

def test_a_file_in_the_way_is_named_before_training(world, tmp_path):
    (tmp_path/'file').write_text('mine')
    with pytest.raises(WriteError, match='A part of the path is a file'):
        trained(learner(world, 'finetune'), checkpoint=tmp_path/'file', cbs=StopAt(0))

def test_callbacks_of_the_user_go_on(world, tmp_path):
    "The best value of SaveModel, the patience of EarlyStopping, and the gradients of a step that is not yet full"
    def cbs(path):
        best = SaveModelCallback('miou', fname=str(path))
        return [best, EarlyStoppingCallback('miou', patience=3), GradientAccumulation(24)]
    whole = trained(learner(world, 'minec2f'), 4, cbs=cbs(tmp_path/'whole'))
    interrupted(learner(world, 'minec2f'), 3, epochs=4, cbs=cbs(tmp_path/'part'), checkpoint=tmp_path/'kept')
    again = trained(learner(world, 'minec2f'), 4, cbs=cbs(tmp_path/'part'), checkpoint=tmp_path/'kept')
    assert same(again, whole)

@pytest.mark.parametrize('change', [dict(lr=1e-2), dict(epochs=3), dict(made=dict(lambda_f=.5)),
                                    dict(made=dict(bn='student'))])
def test_another_training_is_refused(change, world, tmp_path):
    "Other arguments of `fit_poly`, or a learner `made` otherwise"
    interrupted(learner(world, 'minec2f'), checkpoint=tmp_path)
    made, fitted = change.get('made', {}), {k: v for k,v in change.items() if k!='made'}
    with pytest.raises(DatasetError, match='another configuration'):
        trained(learner(world, 'minec2f', **made), checkpoint=tmp_path, **fitted)

def test_another_teacher_is_refused(world, tmp_path):
    interrupted(learner(world, 'finetune'), checkpoint=tmp_path)
    torch.manual_seed(1)
    other = c2f_learner(world.fine, teacher_learner(world.coarse, **NET), 'finetune', lr=1e-3)
    with pytest.raises(DatasetError, match='teacher'): trained(other, checkpoint=tmp_path)

def test_a_damaged_file_is_named_and_kept(world, tmp_path):
    interrupted(learner(world, 'finetune'), checkpoint=tmp_path)
    (file,) = tmp_path.iterdir()
    raw = bytearray(file.read_bytes())
    raw[len(raw)//2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(TrainingError, match='is damaged'): trained(learner(world, 'finetune'), checkpoint=tmp_path)
    assert file.read_bytes()==raw

@pytest.fixture
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

SCRIPT = '''
import sys, warnings; warnings.simplefilter('ignore')
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpoint import *
torch.set_num_threads(1)
world = make_world(Path(sys.argv[1]))
print('ready', flush=True)
learn = trained(learner(world, 'coarse_selftrain'), 6, checkpoint=sys.argv[2])
torch.save(learn.model.state_dict(), sys.argv[3])
'''

def test_killed_and_started_again(world, tmp_path, repo, one_thread):
    "A SIGKILL at a random moment, in another process each time"
    kept, out = tmp_path/'kept'/'training.safetensors', tmp_path/'weights.pt'
    def start():
        script, paths = SCRIPT.format(tests=str(repo/'tests')), [str(world.folder), str(kept.parent), str(out)]
        p = subprocess.Popen([sys.executable, '-c', script, *paths], cwd=repo, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline()=='ready\n'
        return p
    p = start()
    while p.poll() is None and not kept.exists(): time.sleep(.01)  # until an epoch is done
    time.sleep(random.Random().uniform(0, .5))
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not out.exists(), 'it was killed too late to show anything'
    assert start().wait()==0
    whole = trained(learner(world, 'coarse_selftrain'), 6)
    assert same_weights(whole.model.state_dict(), torch.load(out, weights_only=True))
    assert [o.name for o in kept.parent.iterdir()]==[kept.name]  # nothing of the kill is left

@pytest.mark.parametrize('name', ['minec2f','joint'])
def test_a_trained_learner_can_be_copied(name, world):
    "Nothing of the last batch is left on it; copy and original train on alike"
    learn = trained(learner(world, name), 1)
    twin = copy.deepcopy(learn)
    assert same(trained(twin, 1), trained(learn, 1))
