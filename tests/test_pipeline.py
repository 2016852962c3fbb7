"Mapping with a reader ahead and a writer behind: the same to the bit, and whatever fails leaves no file and no thread."
import errno, os, signal, threading

import numpy as np, pytest, rasterio, torch
from rasterio.transform import from_origin

from minec2f import maps, predict
from minec2f.bands import BandStats
from minec2f.bundle import Bundle
from minec2f.core import RasterError, WriteError
from minec2f.inputs import InputSpec
from minec2f.pipeline import ahead, behind
from minec2f.predict import predict_scene
from minec2f.raster import read_chip
from minec2f.sliding import mean_of_symmetries
from minec2f.windows import window_starts

MEAN, STD = .2, .06

class Net(torch.nn.Module):
    "Sees around a pixel, and answers NaN where it is given NaN"
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = torch.nn.Conv2d(2, 2, 5, padding=2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return 9*self.conv(x.nan_to_num()) + 0*x[:, :1]

def network(seed=0, **changed):
    bundle = Bundle(Net(seed), InputSpec(['B04','B08'], BandStats(['B04','B08'], 1, MEAN, STD**2), size=32))
    for k,o in changed.items(): setattr(bundle.model, k, o)
    return bundle

def draw(path, h=300, w=210, **how):
    "A scene as GDAL writes it, with a corner and single pixels of no data"
    rng = np.random.default_rng(0)
    dn = rng.integers(800, 3500, (2, h, w)).astype(np.uint16)
    dn[:, :h//2, :w//3] = 0
    dn[:, rng.random((h, w))<.01] = 0
    profile = dict(driver='GTiff', count=2, dtype='uint16', height=h, width=w, nodata=0, crs='EPSG:32723',
                   transform=from_origin(6e5, 77e5, 10, 10), compress='deflate')
    with rasterio.open(path, 'w', **profile | how) as f:
        f.write(dn)
        f.descriptions = 'B04', 'B08'
    return path

@pytest.fixture
def place(tmp_path):
    "A folder for maps; after the test no thread more than before"
    before = set(threading.enumerate())
    (tmp_path/'out').mkdir()
    yield tmp_path
    assert {o.name for o in threading.enumerate() if o not in before}==set()

# The same to the bit

def by_hand(bundle, path, size, overlap, bs, ways):
    "(K,h,w) scores and (h,w) valid of a scene held in memory: a loop over windows, all in float32"
    with rasterio.open(path) as f: dn = f.read()
    valid = (dn!=0).all(0)
    x = np.where(valid, (dn.astype(np.float32)*np.float32(1e-4)-np.float32(MEAN))/np.float32(STD), np.float32(np.nan))
    h, w = valid.shape
    padded = np.full((2, max(h, size), max(w, size)), np.nan, np.float32)
    padded[:, :h, :w] = x
    sums, weights = np.zeros_like(padded), np.zeros(padded.shape[1:], np.float32)
    cosine = np.sin(np.pi*(np.arange(size)+.5)/size)**2
    window = np.outer(cosine, cosine).astype(np.float32)
    for top in window_starts(h, size, overlap):
        cuts = [(slice(top, top+size), slice(o, o+size)) for o in window_starts(w, size, overlap)]
        cuts = [o for o in cuts if not np.isnan(padded[0][o]).all()]
        for k in range(0, len(cuts), bs):
            tiles = torch.from_numpy(np.stack([padded[:, *o] for o in cuts[k:k+bs]]))
            with torch.inference_mode(): scores = ways(bundle.model, tiles).numpy()
            for here,score in zip(cuts[k:k+bs], scores):
                known = ~np.isnan(padded[0][here])
                weight = window*known
                sums[:, *here] += np.where(known, score, 0)*weight
                weights[here] += weight
    seen = weights>0
    return (sums/np.where(seen, weights, 1))[:, :h, :w], seen[:h, :w]

def once(model, x): return model(x)

LAYOUTS = dict(strips={}, tiles=dict(tiled=True, blockxsize=64, blockysize=64), bands=dict(interleave='band'),
               large=dict(tiled=True, blockxsize=512, blockysize=512))

@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape,size,overlap,bs',
                         [((300,210), 64, .25, 3), ((130,1100), 96, .5, 8), ((20,9), 32, 0., 8)])
def test_a_map_is_a_loop_over_windows(place, layout, shape, size, overlap, bs):
    bundle, scene = network(), draw(place/'s.tif', *shape, **LAYOUTS[layout])
    made = predict_scene(bundle, scene, place/'out'/'m.tif', overlap, size, bs, device='cpu', progress=False)
    with rasterio.open(made) as f:
        np.testing.assert_array_equal(f.read(), maps.to_map(*by_hand(bundle, scene, size, overlap, bs, once)))

@pytest.mark.parametrize('members', [1, 3])
def test_symmetries_and_several_networks_too(place, members):
    bundles, scene = [network(o) for o in range(members)], draw(place/'s.tif')
    how = dict(overlap=.25, size=64, bs=4, device='cpu', progress=False)
    made = predict_scene(bundles, scene, place/'out'/'m.tif', tta=True, uncertainty=True, **how)
    logits, valid = zip(*(by_hand(o, scene, 64, .25, 4, mean_of_symmetries) for o in bundles))
    with rasterio.open(made) as f:
        np.testing.assert_array_equal(f.read(), maps.to_map(np.stack(logits), valid[0], uncertainty=True))

def test_no_pixel_is_read_twice(place, monkeypatch):
    scene, read = draw(place/'s.tif', 1500, 700, tiled=True, blockxsize=256, blockysize=256), []
    def counted(path, bands, window, *rest):
        read.append(np.prod([b-a for a,b in window]))
        return read_chip(path, bands, window, *rest)
    monkeypatch.setattr('minec2f.scene.read_chip', counted)
    predict_scene(network(), scene, place/'out'/'m.tif', .5, 128, device='cpu', progress=False)
    assert sum(read)==1500*700

# What fails

def fails(place, error, match, bundle=None, scene=None):
    with pytest.raises(error, match=match):
        predict_scene(bundle or network(), scene or draw(place/'s.tif'), place/'out'/'m.tif', .25, 32, bs=4,
                      device='cpu', progress=False)
    assert list((place/'out').iterdir())==[]

def test_a_scene_that_is_torn_half_way(place):
    "What comes before is read and computed; GDAL itself says what is missing"
    scene = draw(place/'s.tif', 2000, 210, tiled=True, blockxsize=64, blockysize=64)
    whole = bytearray(scene.read_bytes())
    start, end = len(whole)*6//10, len(whole)*7//10
    whole[start:end] = bytes(end-start)
    scene.write_bytes(whole)
    bundle = network()
    fails(place, RasterError, r's\.tif cannot be read as a raster', bundle, scene)
    assert bundle.model.calls>9

def test_a_disk_that_fills_up_half_way(place, monkeypatch):
    real, bundle = maps._row_writer, network()
    def small_disk(f):
        write, rows = real(f), []
        def until_full(x):
            rows.append(len(x))
            if len(rows)==3: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(x)
        return until_full
    monkeypatch.setattr(maps, '_row_writer', small_disk)
    fails(place, WriteError, r'm\.tif could not be written .*free space', bundle)

def test_a_limit_that_the_system_sets(place, monkeypatch):
    "GDAL meets it while rows are written, for it keeps none of them"
    resource = pytest.importorskip('resource')
    monkeypatch.setattr(predict, '_blocks_held', lambda *_: 2**16)
    scene = draw(place/'s.tif', 1500, 300)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try: fails(place, WriteError, r'm\.tif could not be written', scene=scene)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)

class Slow(Net):
    def forward(self, x):
        if not self.calls: self.timer.start()
        threading.Event().wait(.02)
        return super().forward(x)

def test_interrupted(place):
    "As by Ctrl-C"
    bundle = network()
    bundle.model = Slow(0)
    bundle.model.timer = threading.Timer(.1, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore it
    try: fails(place, KeyboardInterrupt, '', bundle)
    finally: signal.signal(signal.SIGINT, before)
    bundle.model.timer.join()
    assert bundle.model.calls>1

def test_a_network_that_fails(place):
    class Failing(Net):
        def forward(self, x):
            if self.calls==9: raise RuntimeError('out of memory')
            return super().forward(x)
    bundle = network()
    bundle.model = Failing(0)
    fails(place, RuntimeError, 'out of memory', bundle)

def test_numbers_that_are_no_reflectance_half_way(place):
    "They are refused by name, as before there were threads"
    scene = draw(place/'s.tif', 900, 100, dtype='float32')
    with rasterio.open(scene, 'r+') as f: f.write(np.full((2,1,1), 1e30, np.float32), window=((770,771), (77,78)))
    fails(place, RasterError, r's\.tif has the value 1e\+30', scene=scene)

def test_whoever_stops_early_leaves_nothing_open(place):
    closed = []
    def numbers():
        try: yield from range(99)
        finally: closed.append(threading.current_thread() is not threading.main_thread())
    for n in (1, 2, 7):
        for o in ahead(numbers(), n):
            if o==5: break
        del o
    got = []
    with pytest.raises(ZeroDivisionError):
        for o in behind(lambda o: 1/(3-o), range(9)): got.append(o)
    assert closed==[True]*3 and got==[1/3, 1/2, 1]
