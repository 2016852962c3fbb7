"Datasets are checked and read in a time that grows with their files, and a cache changes nothing but that time"
import os, signal, subprocess, sys, time
from unittest.mock import patch

import numpy as np, pandas as pd, pytest, rasterio, torch
from rasterio.transform import from_origin

from minec2f.cache import OnDisk
from minec2f.chips import load_index
from minec2f.data import mine_dls
from minec2f.raster import read_chip
from minec2f.splits import site_split

N = 120 # chips
BANDS = ['B04','B03','B02']

def chip(path, x, k, **profile):
    place = dict(crs=f'EPSG:{32601+k%60}', transform=from_origin(4e5, 1e6+1e4*k, 10, 10), height=64, width=64)
    kind = dict(driver='GTiff', count=len(x), dtype=x.dtype, compress='deflate')
    with rasterio.open(path, 'w', **kind, **place, **profile) as f:
        f.write(x)
        if len(x)==3: f.descriptions = BANDS

def a_dataset(folder, n):
    rng = np.random.default_rng(0)
    for o in ('images','masks'): (folder/o).mkdir(parents=True)
    mask = np.zeros((1,64,64), np.uint8)
    mask[:, 10:30, 10:30] = 1
    for k in range(n):
        chip(folder/f'images/c{k}.tif', rng.integers(200, 3000, (3,64,64)).astype(np.uint16), k, nodata=0)
        chip(folder/f'masks/c{k}.tif', mask, k)
    table = dict(id=[f'c{k}' for k in range(n)], site=[f's{k}' for k in range(n)], domain=['fine','coarse']*(n//2))
    pd.DataFrame(table).to_csv(folder/'index.csv', index=False)
    return folder

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return a_dataset(tmp_path_factory.mktemp('loading')/'data', N)

@pytest.fixture(scope='module')
def index(folder): return site_split(load_index(folder), buffer_km=1)

def opened(f):
    "How many files are opened while `f` runs"
    real, paths = rasterio.open, []
    def counting(path, *args, **kwargs):
        paths.append(str(path))
        return real(path, *args, **kwargs)
    with patch('rasterio.open', counting): f()
    return len(paths)

def seconds(f):
    start = time.process_time()
    f()
    return time.process_time()-start

def test_an_index_opens_each_file_once(folder):
    assert opened(lambda: load_index(folder)) <= 2*N+4  # and a few masks, until both classes were seen

def test_an_index_costs_little_more_than_opening_its_files(folder):
    files = [*(folder/'images').iterdir(), *(folder/'masks').iterdir()]
    def bare():
        for o in files:
            with rasterio.open(o) as src: src.read(1, window=((63,64), (63,64)))
    ratio = min(seconds(lambda: load_index(folder)) for _ in range(3))/min(seconds(bare) for _ in range(3))
    assert ratio<4  # measured: 1.3

def test_what_lies_beside_an_image_is_still_found(tmp_path):
    data = a_dataset(tmp_path/'data', 2)
    first = data/'images/c0.tif'
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(first, 'r+', IGNORE_COG_LAYOUT_BREAK='YES') as f:
        f.nodata = None
        f.write_mask(np.arange(64*64).reshape(64,64)>=640)
    assert first.with_suffix('.tif.msk').exists()
    assert (~read_chip(first)[1]).sum()==640

def batches(index, cache, **options):
    dls = mine_dls(index, 'fine', BANDS, size=64, bs=16, cache=cache, device='cpu', **options)
    torch.manual_seed(0)
    dls.train.rng.seed(0)
    return [o.as_subclass(torch.Tensor) for loader in dls for batch in loader for o in batch]

def same(a, b): return len(a)==len(b) and all(torch.equal(x.nan_to_num(-9), y.nan_to_num(-9)) for x,y in zip(a, b))

def test_the_second_run_opens_no_image_to_read_it(index, tmp_path):
    plain = batches(index, False)
    cold = opened(lambda: batches(index, tmp_path/'cache'))
    dls = mine_dls(index, 'fine', BANDS, size=64, bs=16, cache=tmp_path/'cache', device='cpu')
    assert opened(lambda: [None for loader in dls for _ in loader])==0 < cold
    assert same(plain, batches(index, tmp_path/'cache'))

def test_other_bands_and_scales_are_other_entries(index, tmp_path):
    for how in (dict(), dict(scale=2e-4), dict(offset=-.01)):
        assert same(batches(index, False, **how), batches(index, tmp_path/'cache', **how))
    swapped = mine_dls(index, 'fine', BANDS[::-1], size=64, cache=str(tmp_path/'cache'), device='cpu', augment=False)
    assert swapped.spec.bands==BANDS[::-1]
    straight = mine_dls(index, 'fine', BANDS, size=64, cache=tmp_path/'cache', device='cpu', augment=False)
    assert torch.equal(swapped.valid_ds[0][0], straight.valid_ds[0][0].flip(0))

def test_a_chip_that_was_redrawn_is_read_again(tmp_path):
    index = site_split(load_index(a_dataset(tmp_path/'data', 20)), buffer_km=1)
    def values(cache): return batches(index, cache, augment=False)
    before = values(tmp_path/'cache')
    for k in range(20):
        chip(tmp_path/f'data/images/c{k}.tif', np.full((3,64,64), 1000+k, np.uint16), k, nodata=0)
    after = values(tmp_path/'cache')
    assert same(after, values(False)) and not same(before, after)

WRITER = """
import sys, numpy as np
from minec2f.cache import OnDisk
kept = OnDisk(sys.argv[1])
print('ready', flush=True)
for k in range(100_000): kept.get(k, [sys.argv[2]], lambda: np.full((64,1024), k))
"""

def test_a_killed_writer_leaves_whole_entries(tmp_path):
    (tmp_path/'a.tif').write_text('a')
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, '-c', WRITER, tmp_path/'cache', tmp_path/'a.tif'],
                                  stdout=subprocess.PIPE, env=os.environ | dict(OMP_NUM_THREADS='1'))
        writer.stdout.readline()
        while len(list(tmp_path.glob('cache/*.npy')))<3: time.sleep(.01)
        time.sleep(.05)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        entries = list((tmp_path/'cache').glob('*.npy'))
        for o in entries: assert np.unique(np.load(o)).size==1 and np.load(o).shape==(64,1024)
        for o in entries: o.unlink()
    kept = OnDisk(tmp_path/'cache')
    for k in range(20): assert (kept.get(k, [tmp_path/'a.tif'], lambda k=k: np.full((64,1024), k))==k).all()
    assert kept.writes

def test_a_cache_that_cannot_be_written_is_said_once(index, tmp_path, recwarn):
    (tmp_path/'a.tif').write_text('a')
    kept = OnDisk(tmp_path/'cache')
    with patch('numpy.save', side_effect=OSError(28, 'No space left on device')):
        for k in range(3): assert kept.get(k, [tmp_path/'a.tif'], lambda k=k: np.full(9, k)).sum()==9*k
    said = [str(o.message) for o in recwarn if 'decoded anew' in str(o.message)]
    assert len(said)==1 and 'disk is full' in said[0]

def test_starting_grows_with_the_chips(index):
    fine = index[index['domain']=='fine']
    kept = [fine[fine['split']==o] for o in ('train','valid')]
    some = pd.concat([o.iloc[:len(o)//2] for o in kept])
    def start(o): return opened(lambda: mine_dls(o, 'fine', BANDS, size=64, device='cpu', buffer_km=1))
    assert start(pd.concat(kept)) <= 2.5*start(some)
