"Mapping: a folder of scenes by the notebook, run twice; what a large scene costs; a kill."
import json, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, rasterio, rasterio.shutil, torch
from conftest import run_notebook
from rasterio.transform import from_origin

from minec2f.bands import BandStats
from minec2f.bundle import CARD, Bundle, load_bundle, read_card, save_bundle, save_temperature
from minec2f.core import BundleError, OptionError, RasterError, WriteError
from minec2f.inputs import InputSpec
from minec2f.evaluate import evaluate, summarize
from minec2f.maps import to_polygons
from minec2f.models import mine_model
from minec2f.predict import mapped_before, predict_scene
from minec2f.raster import Grid, geodesic_ha, read_chip, read_layer, write_raster

class Bright(torch.nn.Module):
    def forward(self, x): return torch.stack([0*x[:,0], 40*(x[:,0]-.2)], 1)

def bright(size=64): return Bundle(Bright(), InputSpec(['B04'], BandStats(['B04'], 1, 0., 1.), size=size))

class Three(torch.nn.Module):
    def forward(self, x): return torch.stack([0*x[:,0], 40*(x[:,0]-.2), 40*(.1-x[:,0])], 1)

def three_classes():
    classes = ['background','pit','pond']
    return Bundle(Three(), InputSpec(['B04'], BandStats(['B04'], 1, 0., 1.), size=64, classes=classes))

def grid(h, w): return Grid(rasterio.CRS.from_epsg(32723), from_origin(600000, 7700000, 10, 10), h, w)

def write_scene(path, h=90, w=110, **kw):
    dn = np.random.default_rng(0).integers(800, 3000, (1, h//10, w//10)).repeat(10, 1).repeat(10, 2).astype(np.uint16)
    write_raster(path, dn, grid(h, w), nodata=0, names=['B04'], **kw)
    return path

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    spec = InputSpec(['B04'], BandStats(['B04'], 1, .19, .06**2), size=64)
    torch.manual_seed(0)
    model = mine_model(['B04'], encoder='resnet18', pyramid=32, segmentation=32)
    learn = SimpleNamespace(model=model, dls=SimpleNamespace(spec=spec))
    return save_bundle(tmp_path_factory.mktemp('bundle')/'b', learn)

def run(repo, monkeypatch, tmp_path, **parameters):
    return run_notebook(repo, monkeypatch, 'predict', tmp_path/'run.ipynb', **parameters)

def test_one_bad_scene_stops_nothing_and_what_is_done_is_kept(repo, bundle, tmp_path, monkeypatch):
    scenes, out = tmp_path/'scenes', tmp_path/'maps'
    scenes.mkdir()
    write_scene(scenes/'a.tif'); write_scene(scenes/'b.TIF', radiometry=(2e-4, -.1))
    (scenes/'torn.tif').write_bytes((scenes/'a.tif').read_bytes()[:400])
    write_raster(scenes/'late.tif', np.full((1,64,64), 20000, np.uint16), grid(64, 64), names=['B04'])
    how = dict(bundle=str(bundle), scene=str(scenes), out=str(out), min_area_ha=0)
    said = run(repo, monkeypatch, tmp_path, **how)
    assert 'torn.tif: left out' in said and 'late.tif: left out' in said and 'scale=' in said
    assert 'a.tif: mapped; scale=0.0001, offset=0 (default)' in said
    assert 'b.TIF: mapped; scale=0.0002, offset=-0.1 (file)' in said
    of_a_scene = 'gpkg png qml tif tif.aux.xml'.split()  # a map is never without its colours and its style
    expected = ['all_scenes.gpkg', *(f'{k}.{o}' for k in 'ab' for o in of_a_scene)]
    assert sorted(o.name for o in out.iterdir())==sorted(expected)
    parts, together = [read_layer(out/f'{o}.gpkg') for o in 'ab'], read_layer(out/'all_scenes.gpkg')
    once = pd.concat(parts).to_crs(4326).union_all()  # both show the same ground
    assert together.crs==4326 and {'a.tif;b.TIF'}<=set(together.scene)<={'a.tif', 'b.TIF', 'a.tif;b.TIF'}
    assert np.isclose(together.area_ha.sum(), geodesic_ha(once)) and together.union_all().equals(once)
    assert together.area_ha.sum()<sum(o.area_ha.sum() for o in parts)
    before = {o: (out/o).stat().st_mtime_ns for o in ('a.tif','b.tif')}
    write_scene(scenes/'b.TIF', radiometry=(3e-4, -.1))
    said = run(repo, monkeypatch, tmp_path, **how)
    assert 'a.tif: kept;' in said and 'b.TIF: mapped; scale=0.0003' in said
    after = {o: (out/o).stat().st_mtime_ns for o in before}
    assert after['a.tif']==before['a.tif'] and after['b.tif']!=before['b.tif']

LARGE = '''
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_predict import bright
from minec2f.predict import predict_scene
def peak(): return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/1024
folder = Path(sys.argv[1])
def map_it(name): predict_scene(bright(512), folder/name, folder/'map.tif', overlap=0, progress=False, device='cpu')
map_it('small.tif'); before = peak()
map_it('large.tif'); print(peak()-before)
'''

def python(code, *args):
    "Code to run in a process of its own"
    return [sys.executable, '-W', 'ignore', '-c', code, *map(str, args), str(Path(__file__).parent)]

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak of memory is read from /proc')
def test_large_scene_does_not_enter_memory(tmp_path):
    "150 MB of pixels and of map (sparse on the disk): the whole process, GDAL's cache included, grows by much less"
    write_scene(tmp_path/'small.tif', 600, 600)
    profile = dict(driver='GTiff', count=1, dtype='uint16', height=49152, width=1536, nodata=0,
                   crs=grid(9,9).crs, transform=grid(9,9).transform, tiled=True,
                   blockxsize=512, blockysize=512, compress='deflate', sparse_ok=True)
    with rasterio.open(tmp_path/'small.tif') as small, rasterio.open(tmp_path/'large.tif', 'w', **profile) as f:
        f.write(small.read(), window=((0,600),(0,600)))
        f.descriptions = ('B04',)
    done = subprocess.run(python(LARGE, tmp_path), capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert float(done.stdout)<190

def test_a_width_that_no_memory_holds_is_named(tmp_path):
    profile = dict(driver='GTiff', count=1, dtype='uint16', height=64, width=2**31-1, nodata=0, crs=grid(9,9).crs,
                   transform=from_origin(6e5, 77e5, 1e-4, 1e-4), tiled=True, blockxsize=2**15, blockysize=64,
                   sparse_ok=True, BIGTIFF='YES')
    with rasterio.open(tmp_path/'wide.tif', 'w', **profile) as f: f.descriptions = ('B04',)
    with pytest.raises(RasterError, match='2147483647 pixels wide'):
        predict_scene(bright(), tmp_path/'wide.tif', tmp_path/'map.tif')

def test_what_changes_nothing_measures_the_same(tmp_path):
    "A rule of single pixels has all symmetries, a temperature moves no class, and two of the same are one"
    image, mask = write_scene(tmp_path/'a.tif'), tmp_path/'a_mask.tif'
    dn, _, where = read_chip(image)
    write_raster(mask, (dn>1500).astype(np.uint8), where, nodata=255)
    index = pd.DataFrame([dict(id='a', site='a', image=str(image), mask=str(mask), polygons='')])
    milder = bright()
    milder.temperature = 3.
    want = summarize(evaluate(bright(), index, device='cpu'))
    for asked,how in ((bright(), dict(tta=True)), (milder, {}), ([bright(), bright()], {}), ([milder], dict(tta=True))):
        assert summarize(evaluate(asked, index, device='cpu', **how))==want

MAP_SAYS = [
    ([bright()], None, 'none'),
    ([bright()], True, 'entropy'),
    ([bright(), bright()], None, 'disagreement'),
    ([bright(), bright()], False, 'none'),
    ([three_classes()], None, 'entropy'),
    ([three_classes()], False, 'none')]

@pytest.mark.parametrize('bundles,asked,kind', MAP_SAYS)
def test_a_map_has_a_third_band_where_it_says_more(tmp_path, bundles, asked, kind):
    scene = write_scene(tmp_path/'scene.tif')
    done = predict_scene(bundles, scene, tmp_path/'map.tif', progress=False, uncertainty=asked)
    names = ('class','probability') if kind=='none' else ('class','probability','uncertainty')
    with rasterio.open(done) as f:
        assert f.descriptions==names and f.tags()['uncertainty']==kind
        assert f.scales==(1, .004, .004)[:len(names)]
    same = dict(bundle=bundles, src=scene, dst=done)
    assert mapped_before(**same, uncertainty=asked)
    assert mapped_before(**same, uncertainty=kind!='none') and not mapped_before(**same, uncertainty=kind=='none')

def test_polygons_of_a_map_with_and_without_uncertainty(tmp_path):
    "The same ones; a map of before the third band is as one without"
    scene = write_scene(tmp_path/'scene.tif')
    plain = predict_scene(bright(), scene, tmp_path/'plain.tif', progress=False)
    unsure = predict_scene(bright(), scene, tmp_path/'unsure.tif', progress=False, uncertainty=True)
    with rasterio.open(unsure) as f: three = f.read()
    with rasterio.open(plain) as f: np.testing.assert_array_equal(f.read(), three[:2])
    two, more = (to_polygons(o, o.with_suffix('.gpkg')) for o in (plain, unsure))
    assert len(two) and more['mean_uncertainty'].between(0, 1).all()
    pd.testing.assert_frame_equal(two, more.drop(columns='mean_uncertainty'))

@pytest.mark.parametrize('asked', [None, True])
def test_the_table_says_how_unsure_where_the_map_does(repo, bundle, tmp_path, monkeypatch, asked):
    write_scene(tmp_path/'a.tif')
    run(repo, monkeypatch, tmp_path, bundle=str(bundle), scene=str(tmp_path/'a.tif'), out=str(tmp_path/'maps'),
        min_area_ha=0, uncertainty=asked)
    together = read_layer(tmp_path/'maps'/'all_scenes.gpkg')
    assert ('mean_uncertainty' in together)==bool(asked)

KILLED = '''
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_predict import Bright, bright
from minec2f.predict import predict_scene
class Slow(Bright):
    def forward(self, x): time.sleep(.3); return super().forward(x)
b = bright()
b.model = Slow()
print('ready', flush=True)
predict_scene(b, Path(sys.argv[1])/'scene.tif', Path(sys.argv[1])/'out'/'map.tif', bs=1, progress=False, device='cpu')
'''

def test_killed_half_way(tmp_path):
    "The earlier map stays, and the next run of the same map leaves nothing of the killed one"
    write_scene(tmp_path/'scene.tif', 300, 300)
    dst = predict_scene(bright(), tmp_path/'scene.tif', tmp_path/'out'/'map.tif', overlap=0, progress=False)
    before = dst.read_bytes()
    p = subprocess.Popen(python(KILLED, tmp_path), stdout=subprocess.PIPE)
    p.stdout.readline()
    time.sleep(1.5)
    p.send_signal(signal.SIGKILL)
    p.wait()
    left = [o.name for o in dst.parent.iterdir()]
    assert len(left)==4 and dst.read_bytes()==before  # the map, what lies beside it, and what the killed one left
    predict_scene(bright(), tmp_path/'scene.tif', dst, progress=False)
    assert sorted(o.name for o in dst.parent.iterdir())==['map.qml','map.tif','map.tif.aux.xml']

# Bundles and paths as strangers give them

@pytest.mark.parametrize('temperature', [0, -1, np.nan, np.inf, 1e-3, '2', None, True])
def test_a_temperature_that_is_none_is_refused_before_anything_is_written(tmp_path, temperature):
    "A negative one would turn the map into its opposite"
    scene, odd = write_scene(tmp_path/'s.tif'), bright()
    odd.temperature = temperature
    for bundle in (odd, [bright(), odd]):
        with pytest.raises(OptionError, match='temperature='): predict_scene(bundle, scene, tmp_path/'m.tif')
    assert [o.name for o in tmp_path.iterdir()]==['s.tif']

def test_temperatures_of_numpy(tmp_path):
    scene, warm, same = write_scene(tmp_path/'s.tif'), bright(), bright()
    warm.temperature = np.float32(2)
    same.temperature = 2
    predict_scene(warm, scene, tmp_path/'m.tif', progress=False)
    assert mapped_before(same, scene, tmp_path/'m.tif') and not mapped_before(bright(), scene, tmp_path/'m.tif')

def test_a_temperature_of_numpy_is_kept(bundle):
    card = read_card(bundle)
    for value in (np.float64(1.5), torch.tensor(1.5)):
        assert load_bundle(save_temperature(bundle, value)).temperature==1.5
    (bundle/CARD).write_text(json.dumps(card, indent=1))

SEVERAL = dict(generator=lambda o: iter(o), dict=lambda o: dict(enumerate(o)), values=lambda o: {0: o[0]}.values(),
               nested=lambda o: [o, o[0]])

@pytest.mark.parametrize('how', SEVERAL)
def test_several_bundles_are_a_list(tmp_path, how):
    scene = write_scene(tmp_path/'s.tif')
    with pytest.raises(BundleError, match='given as a list'):
        predict_scene(SEVERAL[how]([bright(), bright(96)]), scene, tmp_path/'m.tif')

def test_what_is_no_path(tmp_path):
    scene = write_scene(tmp_path/'s.tif')
    for odd in ([scene], None, 3):
        with pytest.raises(RasterError, match='path of a file was expected'): predict_scene(bright(), odd, tmp_path/'m')
        with pytest.raises(WriteError, match='a path was expected'): predict_scene(bright(), scene, odd)

@pytest.mark.parametrize('shape', [(1,1), (1,70), (2,2), (65,33)])
def test_tiny_scenes_with_every_option(tmp_path, shape):
    scene = tmp_path/'s.tif'
    dn = np.random.default_rng(0).integers(800, 3000, (1, *shape)).astype(np.uint16)
    write_raster(scene, dn, grid(*shape), names=['B04'])
    how = dict(tta=True, overlap=.75, size=128, uncertainty=True)
    predict_scene([bright(), bright(96)], scene, tmp_path/'m.tif', progress=False, **how)
    assert (read_chip(tmp_path/'m.tif')[0][0]==(dn[0]*1e-4>.2)).all()
    assert mapped_before([bright(), bright(96)], scene, tmp_path/'m.tif', **how)
    for other in (dict(tta=False), dict(overlap=.5), dict(size=64), dict(uncertainty=False)):
        assert not mapped_before([bright(), bright(96)], scene, tmp_path/'m.tif', **how | other)
