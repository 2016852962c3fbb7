"Published weights in each layout give the features of their own network; other libraries' encoders, by fakes and real."
import argparse, json, sys
from types import ModuleType, SimpleNamespace

import numpy as np, pytest, torch, torchvision
from torch import nn
from torch.nn import functional as F

from minec2f.bands import BandStats, stats_for
from minec2f.bundle import load_bundle, save_bundle
from minec2f.core import BandError, OptionError, WeightsError
from minec2f.inputs import InputSpec
from minec2f.encoders import ENCODERS, register_encoders
from minec2f.export import export_bundle
from minec2f.foundation import FoundationEncoder
from minec2f.method import start_of
from minec2f.models import mine_model
from minec2f.pretrained import LAYOUTS, pretrained_weights

L1C = ['B01','B02','B03','B04','B05','B06','B07','B08','B8A','B09','B10','B11','B12']
SATLAS = ['B04','B03','B02','B05','B06','B07','B08','B11','B12']
SMALL = dict(encoder='resnet18', pyramid=64, segmentation=32)

# As the authors write it: digital numbers (B,C,H,W) to network input
MEAN = [1605.57504906, 1390.78157673, 1314.8729939, 1363.52445545, 1549.44374991, 2091.74883118, 2371.7172463,
        2299.90463006, 2560.29504086, 830.06605044, 22.10351321, 2177.07172323, 1524.06546312]
STD = [786.78685367, 850.34818441, 875.06484736, 1138.84957046, 1122.17775652, 1161.59187054, 1274.39184232,
       1248.42891965, 1345.52684884, 577.31607053, 51.15431158, 1336.09932639, 1136.53823676]
MEAN, STD = (torch.tensor(o)[:,None,None] for o in (MEAN, STD))
def by_10k(dn): return (dn/10000).clip(0, 1)
def by_stats(dn):
    low, high = MEAN-2*STD, MEAN+2*STD
    return ((dn-low)/(high-low)*255).clip(0, 255)/255
def by_satlas(dn):
    picture = (dn[:,:3]/3558*255).clip(0, 255)  # of Level 1C, by ESA
    return torch.cat([picture/255, (dn[:,3:]/8160).clip(0, 1)], 1)

def resnet18(channels, seed=0):
    "torchvision's, without head; batch-norm statistics that are not 0 and 1"
    torch.manual_seed(seed)
    net = torchvision.models.resnet18()
    net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    net.fc = nn.Identity()
    for o in net.modules():
        if not isinstance(o, nn.BatchNorm2d): continue
        nn.init.normal_(o.running_mean, std=.1)
        nn.init.uniform_(o.running_var, .5, 2)
    return net.eval()

@torch.no_grad()
def features(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    maps = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4): maps.append(x := layer(x))
    return maps

def named(state, front): return {front+k: v for k,v in state.items()}
def moco(net): # MoCo v2
    heads = {'module.encoder_q.fc.0.weight': torch.ones(2), 'module.queue': torch.ones(3)}
    two = named(net, 'module.encoder_q.') | named({k: torch.zeros_like(v) for k,v in net.items()}, 'module.encoder_k.')
    return dict(epoch=100, arch='resnet18', state_dict=two | heads, optimizer=dict(state={}, param_groups=[]))
def dino(net):
    student = named({k: torch.zeros_like(v) for k,v in net.items()}, 'module.backbone.')
    teacher = named(net, 'module.backbone.') | {'module.head.mlp.0.weight': torch.ones(2)}
    return dict(student=student, teacher=teacher, epoch=100, args=argparse.Namespace(arch='resnet18', lr=.1))
def decur(net):
    radar = {k: torch.zeros_like(v) for k,v in net.items()} | {'conv1.weight': torch.zeros(64,2,7,7)}
    both = named(radar, 'module.backbone_1.') | named(net, 'module.backbone_2.')
    return both | {'module.projector.0.weight': torch.ones(2)}
def satlas(net): return named(net, 'backbone.resnet.') | {'intermediates.0.fpn.inner_blocks.0.weight': torch.ones(2)}
def satlas_nested(net): return named(net, 'backbone.backbone.resnet.')
def bare(net): return dict(net)

CASES = [('ssl4eo_moco', moco, L1C, by_10k), ('ssl4eo_moco', bare, L1C, by_10k), ('ssl4eo_dino', dino, L1C, by_10k),
         ('decur', decur, L1C, by_stats), ('decur', bare, L1C, by_stats), ('softcon', bare, L1C, by_stats),
         *(('satlas', o, SATLAS, by_satlas) for o in (satlas, satlas_nested, bare))]

def stored(folder, layout, content, **card):
    path = folder/'weights.pth'
    torch.save(content, path)
    path.with_suffix('.json').write_text(json.dumps(dict(layout=layout, encoder='resnet18') | card))
    return path

def some_stats(bands):
    rng = np.random.default_rng(0)
    return BandStats(bands, 1, rng.uniform(.05, .4, len(bands)), rng.uniform(.02, .3, len(bands))**2)

def seen(net, dn, bands, known, stats):
    "Features of our encoder of digital numbers in the order `known`"
    mean, std = (torch.tensor(o)[:,None,None] for o in stats_for(stats, bands))
    x = (dn[:,[known.index(o) for o in bands]]*1e-4-mean)/std
    with torch.no_grad(): return net.eval().encoder(net.rescale(x))[-4:]

@pytest.mark.parametrize('layout,whole,bands,preprocess', CASES, ids=[f'{o[0]}-{o[1].__name__}' for o in CASES])
def test_features_are_those_of_the_untouched_network(tmp_path, layout, whole, bands, preprocess):
    theirs = resnet18(len(bands))
    path = stored(tmp_path, layout, whole(theirs.state_dict()))
    asked = [str(o) for o in np.random.default_rng(1).permutation(bands)]
    stats = some_stats(asked)
    net = mine_model(asked, **SMALL, weights=path, stats=stats)
    dn = torch.randint(1, 14000, (2,len(bands),96,64)).float()
    for a,b in zip(features(theirs, preprocess(dn)), seen(net, dn, asked, bands, stats), strict=True):
        assert (a-b).abs().max()<=1e-4*a.abs().max() # the statistics of a layout are rounded to a tenth
    assert len(net.encoder.loaded.loaded)==len(theirs.state_dict()) and a.std()>.01

def test_without_rounding_it_is_exact(tmp_path):
    theirs = resnet18(13)
    path = stored(tmp_path, 'ssl4eo_moco', moco(theirs.state_dict()))
    stats = some_stats(L1C[::-1])
    net = mine_model(L1C[::-1], **SMALL, weights=path, stats=stats)
    dn = torch.randint(1, 14000, (1,13,64,64)).float()
    for a,b in zip(features(theirs, by_10k(dn)), seen(net, dn, L1C[::-1], L1C, stats)): assert (a-b).abs().max()<=1e-5

def test_bands_that_images_lack_are_left_out_and_neighbours_share(tmp_path):
    theirs, known = resnet18(9), SATLAS
    path = stored(tmp_path, 'satlas', satlas(theirs.state_dict()))
    dn = torch.randint(1, 3000, (1,9,64,64)).float()
    few = ['B08','B04','B03','B02']
    left = torch.tensor([o in few for o in known])[:,None,None]
    net = mine_model(few, **SMALL, weights=path, stats=some_stats(few))
    for a,b in zip(features(theirs, by_satlas(dn)*left), seen(net, dn, few, known, some_stats(few))):
        assert (a-b).abs().max()<=1e-5
    more = [*known, 'B8A', 'B09']
    net = mine_model(more, **SMALL, weights=path, stats=some_stats(more))
    same = torch.cat([dn, dn[:,[6,6]]], 1) # as bright as B08
    for a,b in zip(features(theirs, by_satlas(dn)), seen(net, same, more, more, some_stats(more))):
        assert (a-b).abs().max()<=1e-5

def test_what_is_made_of_it_keeps_the_step(tmp_path):
    path = stored(tmp_path, 'ssl4eo_dino', dino(resnet18(13).state_dict()))
    bands = ['B04','B03','B02','B08']
    stats = some_stats(bands)
    net = mine_model(bands, **SMALL, weights=path, stats=stats).eval()
    spec = InputSpec(bands, stats, size=64)
    bundle = load_bundle(save_bundle(tmp_path/'b', SimpleNamespace(model=net, dls=SimpleNamespace(spec=spec))))
    x = torch.randn(1,4,64,64)
    x[..., :9] = torch.nan
    with torch.no_grad():
        assert torch.equal(bundle.model(x), net(x))
        assert torch.equal(start_of('teacher', net).eval()(x), net(x))
    assert bundle.info['encoder_weights']['license']=='CC-BY-4.0'
    assert start_of('scratch', net).config==net.config and 'rescale' not in start_of('random', net).config
    exported = torch.export.load(export_bundle(bundle, tmp_path/'e', 64)/'model.pt2').module()
    reflectance = spec.denormalize(torch.randn(1,4,64,64))
    with torch.no_grad(): p = net(spec.normalize(reflectance)).softmax(1)
    assert (exported(reflectance)-p).abs().max()<=1e-5

def test_learners_hand_on_their_statistics(tmp_path, monkeypatch):
    from minec2f import learner
    path = stored(tmp_path, 'ssl4eo_moco', moco(resnet18(13).state_dict()))
    monkeypatch.setattr(learner, '_mine_learner', lambda dls, model, *args, **kwargs: model)
    bands = ['B04','B08']
    stats = some_stats(bands)
    net = learner.teacher_learner(SimpleNamespace(spec=InputSpec(bands, stats)), **SMALL, weights=str(path))
    step = net.config['rescale']
    assert np.allclose(step['scale'], stats.std) and np.allclose(step['shift'], stats.mean)

class Evil:
    def __reduce__(self): return (print, ('was run',))

def test_errors_say_what_to_do(tmp_path, capsys):
    state = resnet18(13).state_dict()
    def refused(what, error=WeightsError, asked=('B04','B08'), content=None, model=None, **card):
        path = stored(tmp_path, card.pop('layout', 'ssl4eo_moco'), content or moco(state), **card)
        with pytest.raises(error, match=what): mine_model(list(asked), **(SMALL | (model or {})), weights=path)
    refused('conv1.weight are .64, 13, 7, 7., for 13 bands; its card names 12', bands=L1C[:12])
    refused('band VV is none of B01', BandError, ['B04','VV'])
    refused('is of resnet18, says its card; resnet34 was asked for', model=dict(encoder='resnet34'))
    refused(r'tensors are missing \(layer1.2', encoder='resnet34', model=dict(encoder='resnet34'))
    refused('cannot be read as named tensors', content=dict(state_dict=Evil()))
    refused("layout 'moco' is not known; known are ssl4eo_moco", layout='moco')
    refused('std is 0; finite and above 0', std=0)
    refused('not all values of module.encoder_q.bn1.bias', content=dict(state_dict={'module.encoder_q.bn1.bias':
                                                                                   torch.tensor([torch.nan])}))
    assert 'was run' not in capsys.readouterr().out
    (tmp_path/'weights.json').write_text('{')
    with pytest.raises(WeightsError, match='weights.json'): pretrained_weights(tmp_path/'weights.pth')

def test_a_bundle_that_lies_about_the_step_is_refused(tmp_path):
    net = mine_model(['B04','B08'], **SMALL)
    for step in ({}, dict(scale=[1.], shift=[0.], clip=None), dict(scale=[1.,1.], shift=[0.,np.nan], clip=None), 'x'):
        with pytest.raises(OptionError, match='rescale is .*2 numbers'): mine_model(**net.config | dict(rescale=step))

# --- Other libraries, by fakes of their interfaces --------------------------------------------------------------------
class Tokens(nn.Module):
    "Tokens of `depth` blocks, `front` of no patch; terratorch 1.2.13's TerraMind: 0, of 16 px; Clay v1: 1, of 8 px"
    def __init__(self, channels, patch, front, only=None, depth=12, width=16):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.front, self.depth, self.only = nn.Parameter(torch.randn(1, front, width)), depth, only
    def forward(self, x, **kwargs):
        if self.only and x.shape[-2:]!=(self.only,)*2: raise RuntimeError(f'an image of {self.only} px was expected')
        patches = self.proj(x).flatten(2).mT
        tokens = torch.cat([self.front.expand(x.shape[0], -1, -1), patches], 1)
        return [tokens*(k+1) for k in range(self.depth)]

class Registry:
    "terratorch's `BACKBONE_REGISTRY`: names, and `build`"
    def __init__(self): self.asked = {}
    names = dict(terramind_v1_base=(16, 0), clay_v1_base=(8, 1, 256), prithvi_eo_v2_300=(16, 1))
    def __contains__(self, name): return name in self.names
    def build(self, name, pretrained, **options):
        self.asked[name] = options
        bands = options['bands']['S2L2A'] if 'modalities' in options else options['bands']
        return Tokens(len(bands), *self.names[name])

class FakeDOFA(nn.Module):
    "What torchgeo 0.8.1's has: filters made of wavelengths, an embedding of 14x14 patches, a class token, blocks"
    def __init__(self, num_classes=45, width=16, patch=16):
        super().__init__()
        self.patch_size, self.made = patch, nn.Linear(1, width)
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1,1,width)), nn.Parameter(torch.randn(1,197,width))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(12))
        self.fc_norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)
    def patch_embed(self, x, wavelengths):
        weight = self.made(wavelengths[:,None])                              # (C,width)
        x = F.avg_pool2d(x, self.patch_size)
        return torch.einsum('bchw,cd->bhwd', x, weight).flatten(1, 2), wavelengths

@pytest.fixture
def libraries(monkeypatch):
    terratorch, torchgeo = ModuleType('terratorch.registry'), ModuleType('torchgeo.models')
    terratorch.BACKBONE_REGISTRY = Registry()
    torchgeo.list_models = lambda: ['dofa_base_patch16_224', 'resnet50']
    torchgeo.get_model = lambda name, num_classes: FakeDOFA(num_classes)
    for o in (terratorch, torchgeo):
        monkeypatch.setitem(sys.modules, o.__name__.split('.')[0], ModuleType('package'))
        monkeypatch.setitem(sys.modules, o.__name__, o)
    return terratorch.BACKBONE_REGISTRY

BANDS = ['B04','B03','B02','B8A','B11']
NAMES = ['terratorch:terramind_v1_base', 'terratorch:clay_v1_base', 'terratorch:prithvi_eo_v2_300',
         'torchgeo:dofa_base_patch16_224']

@pytest.mark.parametrize('name', NAMES)
def test_fakes_become_networks_that_bundles_keep_and_graphs_hold(tmp_path, libraries, name):
    net = mine_model(BANDS, encoder=name, pyramid=64, segmentation=32).eval()
    x = torch.randn(1,5,96,64)
    with torch.no_grad():
        assert net(torch.randn(2,5,50,33)).shape==(2,2,50,33)
        strides = [x.shape[-1]//o.shape[-1] for o in net.encoder(x)]
    assert strides==[1,2,4,8,16,32]
    spec = InputSpec(BANDS, some_stats(BANDS), size=32)
    bundle = load_bundle(save_bundle(tmp_path/'b', SimpleNamespace(model=net, dls=SimpleNamespace(spec=spec))))
    with torch.no_grad(): assert torch.equal(bundle.model(x), net(x))
    if name in NAMES[::3]: export_bundle(bundle, tmp_path/'e')

def test_libraries_are_told_bands_in_their_words(libraries):
    for name in NAMES[:2]: mine_model(BANDS, encoder=name, pyramid=64, segmentation=32)
    names = ['RED','GREEN','BLUE','NIR_NARROW','SWIR_1']
    assert libraries.asked=={'terramind_v1_base': dict(modalities=['S2L2A'], bands=dict(S2L2A=names)),
                             'clay_v1_base': dict(bands=names)}
    net = mine_model(BANDS, encoder=NAMES[3], pyramid=64, segmentation=32)
    assert net.encoder.body.wavelengths.tolist()==pytest.approx([.6646,.5598,.4924,.8647,1.6137])

def test_tokens_lie_where_their_patch_does(libraries):
    for name,patch in (('terratorch:prithvi_eo_v2_300', 16), ('terratorch:terramind_v1_base', 16), (NAMES[3], 16)):
        encoder = mine_model(BANDS, encoder=name, pyramid=64, segmentation=32).encoder.eval()
        x = torch.zeros(1,5,96,64)
        with torch.no_grad():
            before = encoder.maps(x)[0]
            x[..., 5*8:5*8+8, 3*8:3*8+8] = 3.
            change = (encoder.maps(x)[0]-before)[0].norm(dim=0)
        assert divmod(change.argmax().item(), change.shape[1])==(5*8//patch, 3*8//patch)

def test_absent_and_unknown_are_said(libraries, monkeypatch):
    for name,what in (('terratorch:x', "no backbone 'x'"), ('torchgeo:resnet50', 'ResNets are asked for by their n')):
        with pytest.raises(OptionError, match=what): mine_model(BANDS, encoder=name)
    for name,what in (('terratorch:clay_v1_base', 'known are coastal'), (NAMES[3], 'wavelengths')):
        with pytest.raises(BandError, match=what): mine_model(['B04','VV'], encoder=name)
    with pytest.raises(OptionError, match='timm has no model'): mine_model(BANDS, encoder='timm:hf-hub:someone/model')
    monkeypatch.setitem(sys.modules, 'torchgeo.models', None)
    with pytest.raises(OptionError, match='pip install torchgeo'): mine_model(BANDS, encoder=NAMES[3])

def test_a_library_of_one_s_own_is_one_function(monkeypatch):
    "OlmoEarth's encoder (olmoearth_pretrain_minimal 0.1.5) gives tokens (B,h,w,T,S,D): dates and groups of bands"
    class Olmo(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.proj = nn.Conv2d(channels, 8, 8, 8)
        def forward(self, x):
            tokens = self.proj(x).permute(0, 2, 3, 1)[:,:,:,None,None].expand(-1, -1, -1, 1, 3, -1)
            return [tokens.mean((3,4)).permute(0, 3, 1, 2)]
    monkeypatch.setitem(ENCODERS, 'olmoearth', None)  # so that it is gone afterwards
    register_encoders('olmoearth', lambda name, bands: FoundationEncoder(Olmo(len(bands)), len(bands)))
    net = mine_model(BANDS, encoder='olmoearth:nano', pyramid=64, segmentation=32)
    assert net(torch.randn(1,5,64,64)).shape==(1,2,64,64)

# --- The libraries themselves, where they are installed ---------------------------------------------------------------
@pytest.fixture(scope='module')
def torchgeo(): return pytest.importorskip('torchgeo.models', reason='torchgeo is not installed')

def test_dofa_is_that_of_torchgeo(torchgeo):
    net = mine_model(BANDS, encoder='torchgeo:dofa_small_patch16_224', pyramid=64, segmentation=32).eval()
    body = net.encoder.body
    x = torch.randn(1,5,224,224)
    with torch.no_grad():
        expected = body.model.forward_features(x, body.wavelengths.tolist()) # mean over patches
        found = net.encoder.maps(x)[-1].mean((2,3))
        assert net(torch.randn(1,5,96,160)).isfinite().all()
    assert (found-expected).abs().max()<=1e-4

def test_resnets_of_torchgeo_load_and_their_bands_are_ours(torchgeo, tmp_path):
    theirs = torchgeo.get_model('resnet18', in_chans=13, num_classes=0).eval()
    path = stored(tmp_path, 'plain', theirs.state_dict(), bands=L1C, std=1e4, scale=1e-4)
    net = mine_model(L1C[::-1], **SMALL, weights=path).eval()
    x = torch.rand(1,13,64,64)
    with torch.no_grad(): assert (theirs.forward_features(x)-net.encoder(x.flip(1))[-1]).abs().max()<=1e-4
    known = torchgeo.ResNet50_Weights
    for row,layout in ((known.SENTINEL2_ALL_MOCO, 'ssl4eo_moco'), (known.SENTINEL2_ALL_SOFTCON, 'softcon'),
                       (known.SENTINEL2_SI_MS_SATLAS, 'satlas'), (known.SENTINEL2_SI_RGB_SATLAS, 'satlas_rgb')):
        bands = [o.upper().removeprefix('B').zfill(2) for o in row.meta['bands']]
        assert [f'B{o}' for o in bands]==list(LAYOUTS[layout]['bands'])
