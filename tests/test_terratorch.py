"The same weights give the same features in our Prithvi as in terratorch's, the reference implementation."
import pytest, torch
from minec2f.prithvi import PRITHVI_BANDS, PRITHVI_STATS, PrithviEncoder, PyramidNeck, load_prithvi

pytest.importorskip('terratorch', reason='terratorch is not installed (pip install minec2f[terratorch])')

HLS = dict(blue='BLUE', green='GREEN', red='RED', nir08='NIR_NARROW', swir16='SWIR_1', swir22='SWIR_2')
SUBSETS = [list(PRITHVI_BANDS), ['red', 'green', 'blue', 'nir08']]

@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    "Random weights in the published form, decoder included"
    from terratorch.registry import FULL_MODEL_REGISTRY
    torch.manual_seed(0)
    autoencoder = FULL_MODEL_REGISTRY.build('prithvi_eo_v1_100_mae', pretrained=False, num_frames=3)
    path = tmp_path_factory.mktemp('prithvi')/'Prithvi_EO_V1_100M.pt'
    torch.save(autoencoder.state_dict(), path)
    return path

def both(path, bands):
    "terratorch's encoder and ours with the weights in `path`"
    from terratorch.registry import BACKBONE_REGISTRY
    theirs = BACKBONE_REGISTRY.build('prithvi_eo_v1_100', pretrained=True, ckpt_path=str(path), num_frames=1,
                                     bands=[HLS[o] for o in bands])
    return theirs.eval(), load_prithvi(PrithviEncoder(len(bands)), path, bands).eval()

@pytest.mark.parametrize('bands', SUBSETS, ids=lambda o: f'{len(o)} bands')
def test_features_are_those_of_terratorch(checkpoint, bands):
    theirs, ours = both(checkpoint, bands)
    for size in ((224,224), (160,160), (96,256)):
        x = torch.randn(1, len(bands), *size)
        with torch.no_grad(): reference, maps = theirs(x), ours(x)
        for i,ours_i in zip(ours.taken, maps):
            tokens = reference[i][:,1:].reshape(1, size[0]//16, size[1]//16, -1).permute(0,3,1,2)
            torch.testing.assert_close(ours_i, tokens, atol=1e-4, rtol=0)

def test_neck_is_that_of_terratorch():
    from terratorch.models.necks import LearnedInterpolateToPyramidal
    theirs, ours = LearnedInterpolateToPyramidal([64]*4).eval(), PyramidNeck(64).eval()
    def by_our_name(key): return key.replace('fpn1', 'up4').replace('fpn2.0', 'up2')
    ours.load_state_dict({by_our_name(k): v for k,v in theirs.state_dict().items()})
    maps = [torch.randn(1,64,4,4) for _ in range(4)]
    assert ours.out_channels==list(theirs.process_channel_list([64]*4))
    with torch.no_grad():
        for a,b in zip(ours(maps), theirs(maps)): torch.testing.assert_close(a, b, atol=1e-5, rtol=0)

@pytest.mark.parametrize('name,size', [('v1_100', (768,12,12)), ('v2_300', (1024,24,16)), ('v2_300_tl', (1024,24,16))])
def test_names_and_shapes_of_every_size_fit(tmp_path, name, size):
    "On the meta device: no weights, no memory"
    from terratorch.registry import FULL_MODEL_REGISTRY
    with torch.device('meta'):
        autoencoder = FULL_MODEL_REGISTRY.build(f'prithvi_eo_{name}_mae', pretrained=False)
        torch.save(autoencoder.state_dict(), tmp_path/'prithvi.pt')
        load_prithvi(PrithviEncoder(6, *size), tmp_path/'prithvi.pt', list(PRITHVI_BANDS))

def test_statistics_are_those_of_terratorch():
    from terratorch.models.backbones import prithvi_vit as tt
    assert [list(o) for o in PRITHVI_STATS['prithvi_100m']]==[tt.PRITHVI_V1_MEAN, tt.PRITHVI_V1_STD]
    assert [list(o) for o in PRITHVI_STATS['prithvi_300m']]==[tt.PRITHVI_V2_MEAN, tt.PRITHVI_V2_STD]
