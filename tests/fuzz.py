"""Damaged files of every kind that people copy around: each is read rightly, or refused with an error of ours.

`python tests/fuzz.py 1000` damages a thousand files of every kind and prints counts, `python tests/fuzz.py 600 card`
those of one kind, `python tests/fuzz.py card:17` the traceback of one file. Number 17 of a kind is damaged alike in
every run."""
import copy, hashlib, json, pickle, resource, shutil, signal, struct, sys, tempfile, time, traceback, warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace

import geopandas as gpd, numpy as np, rasterio, torch
from affine import Affine
from shapely.geometry import box

from minec2f.area import area_estimate, sample_design
from minec2f.bands import BandStats
from minec2f.bundle import CARD, WEIGHTS, load_bundle, save_bundle
from minec2f.chips import load_index, read_sample
from minec2f.core import MineC2FError
from minec2f.inputs import InputSpec
from minec2f.models import mine_model
from minec2f.predict import predict_scene
from minec2f.raster import read_chip, read_polygons

# Damage

ODD = [
    None, True, False, 0, -1, 1, 3, 7.5, -1e-9, 1e308, 10**30, float('nan'), float('inf'),
    '', ' ', 'x', '0', 'nan', 'B04', '../../etc/passwd', '/dev/zero', 'http://127.0.0.1:9/', 'a\0b', 'a\nb',
    '<script>alert(1)</script>', '\ud800', 'Ω'*300, 'x'*10**6,
    [], {}, [[]], [None], {'': None}, [0]*1000]

def spoil_bytes(rng, data, head=2000):
    "Bits turned, parts cut off, taken out, put in, doubled or emptied; mostly at the head, which says what a file is"
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        n = max(1, len(data))
        near_head = rng.random()<.7
        at = min(n-1, rng.randrange(min(n, head)) if near_head else rng.randrange(n))
        size = rng.choice([1, 2, 4, 8, 64, 1000])
        part = slice(at, at+size)
        kind = rng.randrange(8)
        if kind==0 and data: data[at] ^= 1<<rng.randrange(8)
        if kind==1: data[part] = rng.randbytes(len(data[part]))
        if kind==2 and rng.random()<.3: del data[at:]
        if kind==3: del data[part]
        if kind==4: data[at:at] = rng.randbytes(size)
        if kind==5: data[at:at] = data[part]
        if kind==6: data[part] = bytes(len(data[part]))
        if kind==7: data[part] = rng.choice([b'\xff', b'\x7f', b'"', b'[', b'9'])*len(data[part])
    return bytes(data)

def _nodes(page): # (holder, key) of everything in a page
    for k in (page if isinstance(page, dict) else range(len(page))):
        yield page, k
        if isinstance(page[k], (dict, list)): yield from _nodes(page[k])

def spoil_page(rng, page):
    "One to three values of a page of JSON replaced, taken out, added, reordered, nudged or put into each other"
    page = copy.deepcopy(page)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        nodes = list(_nodes(page))
        if not nodes: break
        part, k = rng.choice(nodes)
        other, j = rng.choice(nodes)
        kind = rng.randrange(8)
        if kind<=1: part[k] = copy.deepcopy(rng.choice(ODD))
        if kind==2: del part[k]
        if kind==3 and isinstance(part, dict):
            odd = copy.deepcopy(rng.choice(ODD))
            part[rng.choice(['weights', 'extra', '', 'bands', 'arch'])] = odd
        if kind==4 and isinstance(part[k], list): rng.shuffle(part[k])
        if kind==5: part[k] = copy.deepcopy(other[j])
        if kind==6 and isinstance(part[k], (int, float)): part[k] *= rng.choice([-1, 0, 2, .5, 1e3, 1e-3, 1e9, 10**12])
        if kind==7: part[k] = [part[k]] if rng.random()<.5 else str(part[k])
    return page

def spoil_json(rng, text):
    "A page of JSON that is damaged as a page, as text, or nested without end"
    kind = rng.random()
    if kind<.75: return json.dumps(spoil_page(rng, json.loads(text))).encode()
    if kind<.97: return spoil_bytes(rng, text.encode(), len(text))
    return rng.choice([b'['*10**5, b'{"a":'*10**5, b'9'*10**6, b'', b'null', b'[]', text.encode('utf-16'),
                       b'\xff'+text.encode()])

def spoil_safetensors(rng, data):
    "Weights whose head says something else, that hold no numbers, are a pickle, or are damaged as bytes"
    n = struct.unpack('<Q', data[:8])[0]
    kind = rng.random()
    head, body = data[8:8+n].decode(), data[8+n:]
    if kind<.4:
        head = spoil_json(rng, head)
        return struct.pack('<Q', len(head))+head+body
    if kind<.5:
        numbers = np.frombuffer(body[:len(body)//4*4], np.float32).copy()
        numbers[rng.randrange(len(numbers))] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
        return data[:8+n]+numbers.tobytes()
    if kind<.55: return pickle.dumps(dict(a=Path('x')))
    if kind<.6: return struct.pack('<Q', rng.choice([0, 1, 2**31, 2**63, 2**64-1, n+1]))+data[8:]
    return spoil_bytes(rng, data, 8+n)

def spoil_table(rng, text):
    "A table with odd cells, in another encoding, with other columns or rows, or damaged as bytes"
    kind = rng.random()
    if kind<.3: return spoil_bytes(rng, text.encode(), len(text))
    if kind<.4: return text.encode(rng.choice(['utf-16', 'latin-1', 'utf-8-sig', 'utf-32', 'cp037']))
    rows = [o.split(',') for o in text.splitlines()]
    for _ in range(rng.choice([1, 1, 2])):
        row = rng.choice(rows)
        k = rng.randrange(len(rows[0]))
        if rng.random()<.6: row[k%len(row)] = str(rng.choice(ODD))
        elif rng.random()<.5: rows.append(list(row))
        else: row.pop()
    end = rng.choice(['\n', '\r\n', '\r'])
    lines = [rng.choice([',', ',', ';', '\t']).join(o) for o in rows]
    return end.join(lines).encode('utf-8', 'surrogatepass')

# What is damaged: a function of an empty folder gives (spoil, use), to be called in turn; `use` raises AssertionError
# where a file was read wrongly

def small_bundle(folder):
    "A bundle of less than 2 MB, and what it makes of some pixels"
    bands = ['B04', 'B03', 'B02', 'B08']
    rng = np.random.default_rng(0)
    spec = InputSpec(bands, BandStats(bands).add(rng.normal(.2, .05, (4,32,32))), size=64, res=10.)
    torch.manual_seed(0)
    model = mine_model(bands, encoder='tu-mobilenetv3_small_050', pyramid=32, segmentation=32)
    save_bundle(folder, SimpleNamespace(model=model, dls=SimpleNamespace(spec=spec)), seed=0)
    return load_bundle(folder)

DN = np.random.default_rng(1).integers(500, 4000, (4,64,64)).astype(np.uint16)

def _scores(bundle):
    x = bundle.encode(DN[:len(bundle.bands)], np.ones((64,64), bool))
    with torch.inference_mode(): return bundle.model(torch.from_numpy(x[None]))

def _bundle(folder, spoil):
    good, bad = small_bundle(folder/'good'), folder/'bad'
    expected, page = _scores(good), json.loads((folder/'good'/CARD).read_text())
    bad.mkdir()
    for o in (CARD, WEIGHTS): shutil.copy(folder/'good'/o, bad/o)
    def use():
        bundle, now = load_bundle(bad), json.loads((bad/CARD).read_text(encoding='utf-8-sig'))
        scores = _scores(bundle)
        assert scores.isfinite().all() and scores.shape==(1, len(bundle.classes), 64, 64), 'scores'
        same = all(now[k]==page[k] for k in ('model','input','weights_sha256'))
        assert not same or torch.equal(scores, expected), 'other scores with the same page and weights'
        repr(bundle)
    return lambda rng: spoil(rng, folder/'good', bad), use

def card(folder):
    "bundle.json"
    return _bundle(folder, lambda rng, good, bad: (bad/CARD).write_bytes(spoil_json(rng, (good/CARD).read_text())))

def weights(folder):
    "model.safetensors, as a rule with the checksum that fits"
    def spoil(rng, good, bad):
        data, page = spoil_safetensors(rng, (good/WEIGHTS).read_bytes()), json.loads((good/CARD).read_text())
        if rng.random()<.85: page['weights_sha256'] = hashlib.sha256(data).hexdigest()
        (bad/WEIGHTS).write_bytes(data)
        (bad/CARD).write_text(json.dumps(page))
    return _bundle(folder, spoil)

def write_tiff(path, x, names, **profile):
    "By rasterio alone, as other programs would"
    opts = dict(driver='GTiff', count=len(x), height=x.shape[1], width=x.shape[2], dtype=x.dtype, crs='EPSG:32722',
                transform=Affine(10, 0, 500000, 0, -10, 7500000)) | profile
    with rasterio.open(path, 'w', **opts) as f:
        f.write(x)
        f.descriptions = names
    return path

def chip(folder):
    "A GeoTIFF as a chip"
    rng, bad = np.random.default_rng(0), folder/'bad.tif'
    x, names = rng.integers(1, 4000, (3,48,40)).astype(np.uint16), ('B04','B03','B08')
    tiled = dict(compress='deflate', tiled=True, blockxsize=16, blockysize=16, nodata=0)
    good = [write_tiff(bad, x, names, **o).read_bytes() for o in (tiled, {})]
    def use():
        x, valid, grid = read_chip(bad, ['B04','B08'])
        assert x.shape==(2, *grid.shape) and valid.shape==grid.shape and valid.dtype==bool, (x.shape, valid.shape, grid)
    return lambda rng: bad.write_bytes(spoil_bytes(rng, rng.choice(good), 900)), use

def scene(folder):
    "A GeoTIFF as a scene that is mapped: the map is complete, or there is none"
    bundle, bad, out = small_bundle(folder/'bundle'), folder/'bad.tif', folder/'out'
    x = np.random.default_rng(0).integers(500, 4000, (4,80,96)).astype(np.uint16)
    good = write_tiff(bad, x, ('B04','B03','B02','B08')).read_bytes()
    out.mkdir()
    def use():
        try:
            predict_scene(bundle, bad, out/'map.tif', progress=False, device='cpu')
            with rasterio.open(out/'map.tif') as f: assert f.read().shape[0]==2
        finally:
            left = [o.name for o in out.iterdir()]
            shutil.rmtree(out)
            out.mkdir()
            if sys.exc_info()[0]: assert not left, left
    return lambda rng: bad.write_bytes(spoil_bytes(rng, good, 900)), use

def index(folder):
    "index.csv of a folder with chips"
    rng, data = np.random.default_rng(0), folder/'data'
    for o in ('images','masks'): (data/o).mkdir(parents=True)
    for k in range(3):
        write_tiff(data/f'images/m{k}.tif', rng.integers(1, 4000, (2,40,40)).astype(np.uint16), ('B04','B08'))
        write_tiff(data/f'masks/m{k}.tif', (rng.random((1,40,40))<.5).astype(np.uint8), ('label',))
    rows = [f'm{k},mine {k},fine,Namibia,-50.998,-22.6087,train' for k in range(3)]
    text = '\n'.join(['id,site,domain,country,lon,lat,split', *rows, ''])
    (data/'index.csv').write_text(text)
    def use():
        table = load_index(data)
        assert all(Path(o).resolve().is_relative_to(data.resolve()) for o in table['image']), 'an image elsewhere'
        assert table['id'].is_unique and table[['lon','lat']].notna().all(None)
        read_sample(table.iloc[0].to_dict(), ['B04'])
    return lambda rng: (data/'index.csv').write_bytes(spoil_table(rng, text)), use

def _polygons(folder, suffix, spoil, driver):
    bad, shapes = folder/f'bad{suffix}', [box(k, k, k+.5, k+.7) for k in range(5)]
    gpd.GeoDataFrame(dict(name=list('abcde'), n=range(5)), geometry=shapes, crs=4326).to_file(bad, driver=driver)
    good = bad.read_bytes()
    def use():
        layer = read_polygons(bad, fix=True)
        assert len(layer) and layer.crs is not None and layer.is_valid.all()
        assert set(layer.geom_type)<={'Polygon', 'MultiPolygon'}
    return lambda rng: bad.write_bytes(spoil(rng, good)), use

def gpkg(folder):
    "Outlines as GeoPackage"
    return _polygons(folder, '.gpkg', lambda rng, good: spoil_bytes(rng, good, len(good)), 'GPKG')

def geojson(folder):
    "Outlines as GeoJSON"
    return _polygons(folder, '.geojson', lambda rng, good: spoil_json(rng, good.decode()), 'GeoJSON')

def _sample(folder, name, spoil):
    "A labelled sample: the estimate is the one from the good file, or there is none"
    mine = (np.random.default_rng(0).random((1,40,40))<.2).astype(np.uint8)
    points = sample_design(write_tiff(folder/'map.tif', mine, ('class',)), 60, folder/'good.gpkg')
    points = points.assign(reference=points['map_class'], interpreter='A, B')
    points.to_file(folder/'good.gpkg', layer='sample')
    points.drop(columns='geometry').to_csv(folder/'good.csv', index=False)
    good, bad = (folder/f'good{name}').read_bytes(), folder/f'bad{name}'
    bad.write_bytes(good)
    def use():
        found = area_estimate(bad, None if name=='.gpkg' else folder/'good.gpkg').table
        assert np.isclose(found.loc['area_ha','estimate'].sum(), 16, rtol=.01) and found.notna().all(None), found
    return lambda rng: bad.write_bytes(spoil(rng, good)), use

def sample(folder):
    "A sample with its design"
    return _sample(folder, '.gpkg', lambda rng, good: spoil_bytes(rng, good, 20_000))

def labels(folder):
    "A sample that another program saved as a table"
    return _sample(folder, '.csv', lambda rng, good: spoil_table(rng, good.decode()))

def _catalogue(folder, *dates):
    from minec2f.world.archive import synth_archive
    from minec2f.chipping.catalog import list_scenes
    from minec2f.chipping.plan import plan_tasks
    from minec2f.chipping.sources import read_source
    from minec2f.stac import StacReader
    root = synth_archive(folder/'archive', n_sites=1, scene_size=96, mines=1, dates=dates, clouds=(0.,), border=False,
                         antimeridian=False)
    bad = min(o for o in root.rglob('*.json') if json.loads(o.read_text())['type']=='Feature')
    good, number = bad.read_text(), iter(range(10**9))
    task = plan_tasks(read_source(root/'polygons.gpkg', 'maus_v2')).iloc[0].to_dict()
    def use():
        scenes = list_scenes(str(root/'catalog.json'), folder/f'scenes{next(number)}.json')
        seen = StacReader(str(scenes), '2021-01-01/2023-12-31', scene_cloud=1., window_cloud=1.)(task)
        assert seen.x.shape[1:]==seen.valid.shape and seen.valid.any()
    return lambda rng: bad.write_bytes(spoil_json(rng, good)), use

def item(folder):
    "The only scene of a STAC catalogue on disk"
    return _catalogue(folder, '2021-06-12')

def one_of_two(folder):
    "One of two scenes of a STAC catalogue: the place can be read from the other"
    return _catalogue(folder, '2021-06-12', '2022-07-19')

TARGETS = {o.__name__: o for o in (card, weights, chip, scene, index, gpkg, geojson, sample, labels, item,
                                  one_of_two)}

# The run

class TooLong(BaseException): pass

@contextmanager
def time_limit(seconds):
    def stop(*_): raise TooLong
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10

def _place(e): # The last of our own lines that it came through
    ours = [o for o in traceback.extract_tb(e.__traceback__) if 'minec2f' in Path(o.filename).parts]
    return f'{Path(ours[-1].filename).name}:{ours[-1].name}' if ours else '?'

def fuzz(
    target:str, # One of `TARGETS`
    n:int,      # How many files
    seconds:float=20., # For each; a slow machine takes some
)->tuple: # (Counter of outcomes, the wrong ones as text, slowest in seconds, memory above the start in MB)
    "Damage `n` files and read each"
    counts, wrong, slowest = Counter(), [], 0.
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        spoil, use = TARGETS[target](Path(tmp))
        use()
        base = peak_mb()
        for i in range(n):
            spoil(Random(f'{target}{i}'))
            start = time.monotonic()
            try:
                with time_limit(seconds): use()
                counts['read'] += 1
            except MineC2FError as e: counts[type(e).__name__] += 1
            except (Exception, TooLong) as e:
                counts['WRONG'] += 1
                wrong.append(f'{target}:{i} {type(e).__name__} in {_place(e)}: {str(e)[:200]}')
            slowest = max(slowest, time.monotonic()-start)
    return counts, wrong, slowest, peak_mb()-base

def one(target, i):
    with tempfile.TemporaryDirectory() as tmp:
        spoil, use = TARGETS[target](Path(tmp))
        spoil(Random(f'{target}{i}'))
        use()

def main(words):
    if ':' in words[0]: return one(*words[0].split(':'))
    for target in words[1:] or TARGETS:
        counts, wrong, slowest, memory = fuzz(target, int(words[0]))
        said = ', '.join(f'{v} {k}' for k,v in counts.most_common())
        print(f'{target}: {said}; slowest {slowest:.1f} s, {memory:.0f} MB above the start', flush=True)
        for o in wrong: print('  ', o)

if __name__=='__main__': main(sys.argv[1:] or ['1000'])
