"Every registered method through the public interface, on a data set of a few chips: what must hold for all of them."
import random, shutil, subprocess, sys
from itertools import combinations
from types import SimpleNamespace

import numpy as np, pytest, rasterio, torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed

import minec2f.learner  # noqa: F401 (registers all methods)
from minec2f.bundle import load_bundle, save_bundle
from minec2f.chips import load_index
from minec2f.core import DatasetError, LabelError, OptionError, TrainingError
from minec2f.data import mine_dls
from minec2f.learner import c2f_learner, teacher_learner
from minec2f.method import METHODS
from minec2f.models import plain
from minec2f.splits import site_split
from minec2f.synth import synth_dataset
from minec2f.training import unwrapped

BANDS = ['B04','B03','B02','B08']
NET = dict(encoder='resnet18', pyramid=64, segmentation=32)
OPTIONS = dict(sppa=dict(warm_steps=2)) # of methods that would take long with their defaults
NO_STEP = {'coarse_only'}               # methods that leave the student as it is

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "Loaders of both domains and a teacher that has seen the coarse one for a moment"
    folder = synth_dataset(tmp_path_factory.mktemp('methods')/'data', n_coarse=10, n_fine=12, size=64, seed=0)
    index = site_split(load_index(folder))
    coarse = mine_dls(index, 'coarse', BANDS, size=64, bs=4, device='cpu')
    def loaders(size):
        shared = dict(spec=coarse.spec, size=size, device='cpu')
        return dict(coarse=mine_dls(index, 'coarse', bs=2, **shared), fine=mine_dls(index, 'fine', bs=2, **shared))
    set_seed(0)
    teacher = quiet(teacher_learner(coarse, lr=1e-3, **NET), 2).model
    small = SimpleNamespace(teacher=teacher, **loaders(32))
    return SimpleNamespace(teacher=teacher, ends={}, small=small, three=three_classes(folder), **loaders(64))

def three_classes(folder):
    "The same with a second kind of mine: the upper half of each, in masks and outlines"
    other = shutil.copytree(folder, folder.parent/'three')
    for mask in (other/'masks').glob('*.tif'):
        with rasterio.open(mask, 'r+') as f:
            y = f.read(1)
            y[:len(y)//2][y[:len(y)//2]==1] = 2
            f.write(y, 1)
    (other/'coarse.gpkg').unlink()  # coarse labels are the masks, too
    index = site_split(load_index(other))
    coarse = mine_dls(index, 'coarse', BANDS, size=32, bs=2, device='cpu', classes=('background','pit','dump'))
    fine = mine_dls(index, 'fine', spec=coarse.spec, size=32, bs=3, device='cpu')
    return SimpleNamespace(coarse=coarse, fine=fine, teacher=teacher_learner(coarse, **NET).model)

def quiet(learn, epochs=1):
    with learn.no_bar(), learn.no_logging(): learn.fit_poly(epochs, seed=0)
    return learn

def state(net): return {k: v.clone() for k,v in net.state_dict().items()}
def same(a, b): return a.keys()==b.keys() and all(torch.equal(v, b[k]) for k,v in a.items())

class OptimiserSteps(Callback):
    "Counts the steps that the optimiser really takes"
    def before_fit(self):
        self.n = 0
        step = self.opt.step
        def counted(*args, **kwargs):
            self.n += 1
            return step(*args, **kwargs)
        self.opt.step = counted

class HalfPrecision(Callback):
    "What mixed precision does on a GPU, in bfloat16 on the CPU: autocast around prediction and loss, float32 logits"
    order,run_valid = 10,False
    def before_batch(self):
        self.cast = torch.autocast('cpu', torch.bfloat16)
        self.cast.__enter__()
    def after_pred(self): self.learn.pred = self.pred.float()
    def after_loss(self): self.cast.__exit__(None, None, None)

def learner(name, world, *cbs, **more): # as a user makes it; its first batches are the same for all methods
    set_seed(0)
    options = dict(coarse_dls=world.coarse, lr=1e-3, keep_best=False, cbs=cbs) | OPTIONS.get(name, {}) | more
    return c2f_learner(world.fine, world.teacher, name, **options)

@pytest.mark.parametrize('name', METHODS)
def test_one_epoch(name, world, tmp_path):
    learn = learner(name, world, steps := OptimiserSteps())
    handed_in, teacher, student = state(world.teacher), state(learn.method.teacher), state(learn.model)
    quiet(learn)
    # the teacher: the same bit for bit, without gradients
    assert same(state(world.teacher), handed_in) and same(state(learn.method.teacher), teacher)
    assert all(p.grad is None and not p.requires_grad for p in learn.method.teacher.parameters())
    # the loss: every term by name, the supervised ones in each step, all numbers
    history, n = learn.loss_terms.history, len(world.fine.train)
    assert set(history)=={*learn.loss_func.names, *learn.method.names}
    assert all(0<len(o)<=n for o in history.values())
    assert all(len(history[k])==n for k in learn.loss_func.names)
    assert all(torch.stack(o).isfinite().all() for o in history.values())
    # the steps: as many as batches, for every method
    assert steps.n==(0 if name in NO_STEP else n)
    assert same(state(learn.model), student)==(name in NO_STEP)
    # the optimiser: every parameter once
    grouped = [id(p) for g in learn.opt.param_lists for p in g]
    assert sorted(grouped)==sorted(id(p) for p in learn.model.parameters())
    check_bundle(learn, world, tmp_path/'bundle')
    world.ends[name] = state(plain(learn.model))

def check_bundle(learn, world, path):
    "The plain network predicts as the student, before and after it was saved"
    x = world.fine.valid.one_batch()[0]
    learn.model.eval()
    ordinary = plain(learn.model).eval()
    save_bundle(path, learn)
    with torch.no_grad():
        expected, kept, read = (o(x) for o in (learn.model, ordinary, load_bundle(path).model))
    assert torch.allclose(kept, expected, atol=1e-5) and torch.equal(read, kept)
    assert set(ordinary.state_dict())==set(world.teacher.state_dict())

@pytest.mark.parametrize('name', [o for o in METHODS if o not in NO_STEP])
def test_half_precision(name, world):
    "Mixed precision reaches all networks that a method runs, and no term stops being a number"
    # (without a backward pass, for which bfloat16 is too slow here)
    class Once(Callback):
        order = 50
        def before_backward(self): raise InterruptedError('seen')
    learn = learner(name, world.small, HalfPrecision(), Once())
    with pytest.raises(InterruptedError): quiet(learn)
    assert learn.loss_terms.terms and all(o.isfinite() for o in learn.loss_terms.terms.values())

def test_methods_differ(world):
    "No two methods are the same by oversight: from the same seed each has ended elsewhere"
    ends = world.ends
    assert not [(a, b) for a,b in combinations(ends, 2) if same(ends[a], ends[b])]

class Inputs(Callback):
    "What the student sees: the batches, and the random numbers from which its dropout is drawn"
    order,run_valid = -10,False # before a method runs anything else in the step
    def before_fit(self): self.seen = []
    def before_batch(self): self.seen.append((*self.xb, *self.yb, torch.get_rng_state()))

class OneDrawMore(Callback):
    "A random number in each step that nobody uses"
    order,run_valid = 16,False
    def after_loss(self): torch.rand(()), random.random(), np.random.rand()

def inputs(name, world, *cbs, **options):
    "All that the student saw in two epochs"
    quiet(learner(name, world.small, seen := Inputs(), *cbs, **options), 2)
    return seen.seen

VARIANTS = [('minec2f', dict(prediction_attention='shuffled')), ('fda', dict(target_labels='none')),
            ('minec2f', dict(unlabelled=True)), ('minec2f+', dict(lambda_u=1., unlabelled=True))]

@pytest.fixture(scope='module')
def seen_by_finetune(world): return inputs('finetune', world)

@pytest.mark.parametrize('name, options', [*((o, {}) for o in METHODS), *VARIANTS], ids=str)
def test_all_see_the_same(name, options, world, seen_by_finetune):
    "Whatever a method draws for itself: every step has the fine batch and the dropout that fine-tuning has"
    asked = dict(unlabelled_dls=world.small.coarse) if 'unlabelled' in options else {}
    found = inputs(name, world, **{k: v for k,v in options.items() if k!='unlabelled'}, **asked)
    assert len(found)==len(seen_by_finetune)==2*len(world.small.fine.train)
    for step,expected in zip(found, seen_by_finetune):
        for a,b in zip(step, expected): assert torch.equal(a.nan_to_num(9.), b.nan_to_num(9.))

def test_steps_differ(seen_by_finetune):
    "The seed of a step is not that of another one"
    states = [state for *_, state in seen_by_finetune]
    assert not [(a, b) for a,b in combinations(range(len(states)), 2) if torch.equal(states[a], states[b])]

@pytest.mark.parametrize('name', ['finetune','minec2f','joint','er','dacs','adaptsegnet'])
def test_a_discarded_draw_changes_nothing(name, world):
    "A number that is drawn after all that a method draws does not reach the next step"
    ends = [state(quiet(learner(name, world.small, *cbs), 2).model) for cbs in ((), (OneDrawMore(),))]
    assert same(*ends)

def hooks(learn):
    modules = [*learn.model.modules(), *learn.method.teacher.modules()]
    return sum(len(o._forward_hooks)+len(o._forward_pre_hooks) for o in modules)

def test_interrupted_fit_can_go_on(world):
    "Taps of a fit that was stopped do not disturb the next one"
    class StopOnce(Callback):
        def after_batch(self):
            if hasattr(self, 'done'): return
            self.done = True
            raise KeyboardInterrupt
    learn = learner('lwf_twohead', world.small, StopOnce())
    with pytest.raises(KeyboardInterrupt): quiet(learn)
    quiet(learn)
    assert hooks(learn)==0

@pytest.mark.parametrize('name', METHODS)
def test_searched_stopped_and_trained(name, world):
    "On three classes: a search changes nothing, Ctrl-C leaves no hook and no half step, and then it trains"
    class Stop(Callback):
        order = 60
        def before_step(self): raise KeyboardInterrupt
    learn = learner(name, world.three)
    before = state(learn.model)
    with learn.no_bar(), learn.no_logging(): found = learn.lr_find(num_it=12, show_plot=False)
    assert found.valley>0 and same(state(learn.model), before)
    assert learn.opt is None and learn.loss_terms.history=={}
    assert all(getattr(learn.method, o, None) is None for o in ('ema', 'memory', 'd'))
    learn.add_cb(Stop())
    if name not in NO_STEP:
        with pytest.raises(KeyboardInterrupt): quiet(learn)
    assert hooks(learn)==0 and not any(p.grad is not None and p.grad.any() for p in learn.model.parameters())
    learn.remove_cb(Stop)
    quiet(learn)
    assert all(torch.stack(o).isfinite().all() for o in learn.loss_terms.history.values())
    assert learn.model(world.three.fine.one_batch()[0]).shape[1]==3

def test_a_search_that_ends_in_a_loss_that_is_no_number(world):
    class Explode(Callback):
        order,run_valid = 50,False
        def after_loss(self):
            if self.train_iter==14: self.learn.loss = self.learn.loss*torch.nan
    learn = learner('minec2f', world.small, Explode())
    before = state(learn.model)
    with learn.no_bar(): assert learn.lr_find(num_it=40, show_plot=False).valley>0
    assert same(state(learn.model), before)
    with pytest.raises(TrainingError, match='the loss became nan'): quiet(learn, 10)

def test_numbers_that_depend_on_the_classes(world):
    flip = [[.8,.1,.1], [.1,.8,.1], [.1,.2,.7]]
    assert torch.equal(learner('minec2f+', world.three, flip=flip).method.flip, torch.tensor(flip))
    rates = learner('minec2f+', world.three, recall=.9, false_alarm=.2).method.flip
    assert rates[0].tolist()==pytest.approx([.8,.1,.1])
    with pytest.raises(LabelError, match='K = 3'): learner('minec2f+', world.three, flip=torch.eye(2))
    weights = [learner('sppa', o).method.weights['kd'] for o in (world.small, world.three)]
    assert weights==[2.5, 5/3]  # 5 over the classes, as released

@pytest.mark.parametrize('name', METHODS)
def test_the_old_domain_has_a_network(name, world):
    "Every method says what predicts the coarse domain after its training; it is an ordinary network"
    learn = quiet(learner(name, world.small))
    old = learn.method.old_branch().eval()
    x = world.small.coarse.valid.one_batch()[0]
    with torch.no_grad(): differs = not torch.equal(old(x), plain(learn.model).eval()(x))
    assert old.state_dict().keys()==world.teacher.state_dict().keys()
    assert differs==(name in ('mdil','lwf_twohead'))

def test_rates_and_epochs_that_depend_on_the_method(world):
    assert learner('mdil', world.small).encoder_lr_mult==.01      # 5e-6 beside 5e-4, as released
    assert learner('mdil', world.small, encoder_lr_mult=.3).encoder_lr_mult==.3
    assert learner('finetune', world.small).encoder_lr_mult==.1
    for name in ('fda','dacs','adaptsegnet'):
        used, none = (learner(name, world.small, keep_best=None, target_labels=o) for o in ('used','none'))
        assert hasattr(used, 'keep_best') and not hasattr(none, 'keep_best')
        with pytest.raises(OptionError, match='must not see'):
            learner(name, world.small, keep_best=True, target_labels='none')

@pytest.mark.parametrize('name', ['finetune','joint','mdil','adaptsegnet','er','minec2f','lwf_twohead'])
def test_wrapped_networks(name, world):
    "Data parallelism on one device changes nothing; a compiled network trains where nobody looks inside"
    learns = [learner(name, world.small) for _ in range(3)]
    learns[1].model = torch.nn.DataParallel(learns[1].model)
    learns[2].model = torch.compile(learns[2].model, backend='eager')
    expected = state(quiet(learns[0]).model)
    assert same(state(unwrapped(quiet(learns[1]).model)), expected)
    if any(learns[2].method.reads()) or name=='lwf_twohead':
        with pytest.raises(OptionError, match='reads features inside the network'): quiet(learns[2])
    else:
        assert same(state(unwrapped(quiet(learns[2]).model)), expected)

def test_all_methods_are_known_to_a_fresh_interpreter(repo):
    script = "from minec2f.method import methods, get_method; get_method('dacs'); print(*methods().index)"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], cwd=repo, capture_output=True, text=True)
    assert done.stdout.split()==list(METHODS), done.stderr

def test_unknown_method(world):
    with pytest.raises(OptionError, match='known are .*minec2f.*finetune'):
        c2f_learner(world.fine, world.teacher, 'magic')

@pytest.mark.parametrize('name', [k for k,o in METHODS.items() if o.coarse_images])
def test_coarse_images_are_asked_for(name, world):
    with pytest.raises(DatasetError, match='pass coarse_dls'): c2f_learner(world.fine, world.teacher, name)

def test_every_method_says_where_it_comes_from():
    for o in METHODS.values():
        assert o.__doc__ and o.source and o.stores and o.start in ('teacher','scratch','random','imagenet')

# One domain after another

@pytest.mark.parametrize('name', ['minec2f','lwf_twohead','mdil'])
def test_a_student_teaches_the_next_stage(world, name):
    "It begins as the network that the first stage ended with, and leaves that one as it is"
    def stage(teacher): return c2f_learner(world.small.fine, teacher, name, coarse_dls=world.small.coarse, lr=1e-3)
    def net(learn): return state(plain(unwrapped(learn.model)))
    first = quiet(stage(world.small.teacher))
    taught = net(first)
    second = stage(first)
    assert same(net(second), taught)
    quiet(second)
    assert same(net(first), taught) and not same(net(second), taught)
