"Maps that do not know where their windows were: the measures, and what training windows show"
import numpy as np, pandas as pd, pytest, torch
from scipy.ndimage import gaussian_filter
from torch import nn

from minec2f.bands import BandStats
from minec2f.bundle import Bundle
from minec2f.chips import load_index
from minec2f.core import IGNORE
from minec2f.inputs import InputSpec
from minec2f.data import mine_dls
from minec2f.learner import reseed
from minec2f.splits import site_split
from minec2f.study.seams import grid_index, map_grid_index, seam_scores, translation_consistency, window_sensitivity
from minec2f.synth import synth_dataset

BANDS = ['B02','B03','B04','B08']

@pytest.fixture(scope='module')
def index(tmp_path_factory):
    folder = synth_dataset(tmp_path_factory.mktemp('seams')/'data', n_coarse=4, n_fine=24, size=64, seed=4, n_scenes=0)
    return site_split(load_index(folder), seed=0)

@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = synth_dataset(tmp_path_factory.mktemp('scenes')/'data', n_coarse=1, n_fine=3, size=320, seed=6, n_scenes=0)
    index = load_index(folder)
    return index[index['domain']=='fine']

def mine_by_place(index, size, **options): # (size,size) share of mine among known pixels at each place of a window
    dls = mine_dls(index, 'fine', BANDS, size=size, bs=8, cache=True, device='cpu', **options)
    reseed(dls, 0)
    ys = torch.cat([y for _ in range(25) for _,y in dls.train]).as_subclass(torch.Tensor)
    return ((ys==1).sum(0)/(ys!=IGNORE).sum(0)).numpy()

def middle_and_rim(share):
    q = len(share)//4
    middle = np.zeros(share.shape, bool)
    middle[q:-q, q:-q] = True
    return share[middle].mean(), share[~middle].mean()

@pytest.mark.parametrize('size', [64, 96])
def test_the_place_in_a_training_window_says_nothing_of_mines(index, size):
    "As large as the chip, or larger"
    middle, rim = middle_and_rim(mine_by_place(index, size))
    assert .85<middle/rim<1.15

def test_without_the_shift_mines_are_in_the_middle(index):
    middle, rim = middle_and_rim(mine_by_place(index, 64, shift=False))
    assert middle>2*rim

def test_random_windows_of_larger_chips_leave_little_of_it(index):
    middle, rim = middle_and_rim(mine_by_place(index, 32))
    assert middle<1.35*rim

def test_shifted_windows_hold_the_same_pixels(index):
    "Each window is its chip, pixel by pixel: nothing is lost, invented or given another label"
    def pairs(**options): # sorted (image, label) of each window
        still = dict(gain=0, shift=0, noise=0)
        dls = mine_dls(index, 'fine', BANDS, size=64, bs=4, device='cpu', jitter=still, **options)
        loader = dls.train.new(shuffle=False, drop_last=False)
        found = [np.c_[x.permute(1,2,0).reshape(-1,4).numpy(), y.reshape(-1,1).numpy()] for xs,ys in loader
                 for x,y in zip(xs.as_subclass(torch.Tensor), ys.as_subclass(torch.Tensor))]
        return [o[np.lexsort(o.T)] for o in found]
    for a,b in zip(pairs(), pairs(shift=False), strict=True): np.testing.assert_allclose(a, b, atol=1e-6)

def test_grid_index_is_unbiased():
    "Over many maps that know nothing of windows its mean is 0, few windows or many; the plain share is not"
    rng = np.random.default_rng(0)
    maps = [gaussian_filter(rng.normal(size=(96,96)), 2, mode='wrap') for _ in range(300)]
    found = np.array([grid_index(o, 32) for o in maps])
    assert abs(found.mean())<4*found.std()/np.sqrt(len(found))
    def plain_share(p):
        place = p.reshape(3,32,3,32).mean((0,2))
        return ((place-p.mean())**2).mean()/p.var()
    assert np.mean([plain_share(o) for o in maps])>.08

def test_grid_index_of_a_known_lattice():
    lattice = np.tile(np.indices((16,16)).sum(0)%2, (8,8)).astype(float)
    noise = np.random.default_rng(0).normal(size=lattice.shape)
    expected = .25*.49/(.25*.49+.04)  # the variance of a coin's toss, times .7²
    assert abs(grid_index(.7*lattice+.2*noise, 16)-expected)<.02
    assert abs(grid_index(.7*lattice+.2*noise, 15))<.02  # another spacing finds nothing
    assert grid_index(lattice, 16)==1

class Pixels(nn.Module):
    "A rule that looks at one pixel at a time"
    def forward(self, x): return torch.stack([0*x[:,0], 30*(x[:,0].nan_to_num()-.2)], 1)

class Whole(nn.Module):
    "A rule that compares each pixel with the mean of its window, as a norm over the window does"
    def forward(self, x):
        red = x[:,0].nan_to_num()
        return torch.stack([0*red, 30*(red-red.mean((1,2), keepdim=True))], 1)

def bundle(model): return Bundle(model, InputSpec(['B04'], BandStats(['B04'], 1, 0., 1.), size=64))

def test_a_rule_for_each_pixel_knows_no_window(scenes):
    rule, sizes = bundle(Pixels()), (64,96,160)
    assert window_sensitivity(rule, scenes, sizes, device='cpu')['miou'].nunique()==1
    assert translation_consistency(rule, scenes, size=64, device='cpu')['difference']<1e-6
    assert abs(map_grid_index(rule, scenes, size=64, device='cpu'))<.01

def test_a_rule_about_the_whole_window_depends_on_its_size_and_place(scenes):
    rules = dict(pixels=Pixels(), whole=Whole())
    found = pd.DataFrame({k: seam_scores(bundle(o), scenes, (64,160), size=64, device='cpu') for k,o in rules.items()})
    assert found.loc['window_range','pixels']==0<.001<found.loc['window_range','whole'], found
    assert found.loc['moved_difference','pixels']<1e-6<.002<found.loc['moved_difference','whole'], found
    assert found.loc['moved_agreement','whole']<found.loc['moved_agreement','pixels']==1, found
