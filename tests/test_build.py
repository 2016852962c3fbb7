"Building datasets: killed and resumed, on three engines, from bad servers and odd catalogues, fast and small"
import json, shutil, signal, subprocess, sys, threading, time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from shapely.geometry import box

from minec2f.build import build_chips, load_source, try_task
from minec2f.chipping.cut import make_chip
from minec2f.chipping.imagery import LocalRasters, snap_window
from minec2f.chipping.plan import plan_tasks, window_of
from minec2f.chips import load_index
from minec2f.core import NetworkError, WriteError
from minec2f.raster import read_chip
from minec2f.stac import build_coarse_dataset
from minec2f.world.archive import synth_archive
from minec2f.world.fileserver import Fault, serve

YEARS = '2021-01-01/2023-12-31'
OPTIONS = dict(dates=YEARS, source='maus_v2', margin_m=100, scene_cloud=1., window_cloud=.5, wait_s=.05, progress=False)
ONCE = dict(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR', GDAL_HTTP_MAX_RETRY=0)  # GDAL itself asks no second time


@pytest.fixture(scope='module')
def archive(tmp_path_factory): return synth_archive(tmp_path_factory.mktemp('archive')/'archive', n_sites=4, mines=3)


def build_archive(archive, where, out, **kwargs):
    "Dataset of an archive's polygons; `where`: a server, or the path of a catalogue"
    catalog = f'{where.url}/catalog.json' if hasattr(where, 'url') else where
    return build_coarse_dataset(archive/'polygons.gpkg', catalog, out, **(OPTIONS | kwargs))


def files(folder):
    "Every byte of a dataset but the address of its (moving) catalogue"
    paths = [o for o in sorted(Path(folder).rglob('*')) if o.is_file()]
    return {str(o.relative_to(folder)): o.read_bytes() for o in paths
            if o.name not in ('.lock', 'dataset.json', 'scenes.json')}


def write_scene(path, x0, y0, side, block):
    "Four bands of noise in the corner where polygons are"
    pixels = np.random.default_rng(0).normal(1500, 80, (4,1600,1600)).astype(np.uint16)
    layout = dict(tiled=True, blockxsize=block, blockysize=block, compress='deflate', predictor=2, sparse_ok=True)
    with rasterio.open(path, 'w', driver='GTiff', count=4, dtype='uint16', height=side, width=side, crs='EPSG:32719',
                       transform=from_origin(x0, y0, 10, 10), nodata=0, **layout) as f:
        f.write(pixels, window=((0,1600), (0,1600)))
        f.descriptions = ('B02','B03','B04','B08')


def local_scenes(folder, n=3, side=1600, per_row=5, block=512):
    "Scenes on a disk, and a grid of square polygons of 1 km on each"
    shapes = []
    (folder/'scenes').mkdir()
    for k in range(n):
        x0, y0 = 400000, 7500000-k*side*10
        write_scene(folder/'scenes'/f'{k}.tif', x0, y0, side, block)
        for i in range(per_row):
            for j in range(per_row):
                x, y = x0+600+i*1400, y0-600-j*1400
                shapes.append(box(x, y-1000, x+1000, y))
    ids = [f'p{i:03d}' for i in range(len(shapes))]
    gpd.GeoDataFrame(dict(polygon_id=ids), geometry=shapes, crs=32719).to_file(folder/'mines.gpkg')
    return folder


@pytest.fixture(scope='module')
def scenes(tmp_path_factory): return local_scenes(tmp_path_factory.mktemp('local'))


def build_local(scenes, out, **kwargs):
    return build_chips(scenes/'mines.gpkg', scenes/'scenes', out, source='other', margin_m=300, progress=False,
                       **kwargs)


def script(scenes, out, then=''):
    "The same build, as a script for another process"
    paths = ', '.join(repr(str(o)) for o in (scenes/'mines.gpkg', scenes/'scenes', out))
    return f'''if __name__=='__main__':
        from minec2f.build import build_chips
        built = build_chips({paths}, source='other', margin_m=300, progress=False)
        {then}'''


def test_killed_build_resumes_to_the_same_files(scenes, tmp_path):
    whole, killed = tmp_path/'whole', tmp_path/'killed'
    build_local(scenes, whole)
    kills = 0
    for wanted in (1, 20, 40):
        worker = subprocess.Popen([sys.executable, '-c', script(scenes, killed)])
        while worker.poll() is None and len(list(killed.glob('rows/[!.]*.json')))<wanted: time.sleep(.002)
        if worker.poll() is None:
            worker.send_signal(signal.SIGKILL)
            kills += 1
        worker.wait()
    assert kills>0 and not (killed/'index.csv').exists(), 'the build was over before it was killed'
    done = {o.name: o.stat().st_mtime_ns for o in (killed/'rows').glob('[!.]*.json')}
    (killed/'images'/'.minec2f-0123456789ab-0').mkdir()  # what a kill in the middle of a write leaves
    build_local(scenes, killed)
    assert files(killed)==files(whole) and not list(killed.rglob('.minec2f-*'))
    for name,made in done.items():
        assert (killed/'rows'/name).stat().st_mtime_ns==made, 'a finished chip was made again'


def test_processes_make_the_same_bytes(archive, tmp_path):
    "(Ray, too: nbs/build_dataset.ipynb)"
    with serve(archive) as server:
        one, many = (build_archive(archive, server, tmp_path/str(k), workers=k) for k in (0,2))
    assert len(one.index)>5 and files(one.folder)==files(many.folder)
    pd.testing.assert_frame_equal(one.index, many.index)


@pytest.mark.parametrize('fault,reason', [
    (Fault('*/B04.tif', status=500, times=None), 'NetworkError'),
    (Fault('*/B04.tif', status=429, times=None), 'NetworkError'),
    (Fault('*/B04.tif', status=404, times=None), 'RasterError'),
    (Fault('*/SCL.tif', truncate=.3, times=None), 'NetworkError')])
def test_bad_servers_give_reasons_and_no_chips(archive, tmp_path, fault, reason, monkeypatch):
    monkeypatch.setattr('minec2f.chipping.assets.GDAL_HTTP', ONCE)
    out = tmp_path/'out'
    with serve(archive, [fault]) as server: built = build_archive(archive, server, out, retries=1)
    assert len(built.index)==0 and set(built.errors['error'])=={reason}
    assert not list(out.glob('images/*')) and not list(out.glob('rows/*'))
    with serve(archive) as server:  # the next day
        card = json.loads((out/'dataset.json').read_text())
        card['imagery']['catalog'] = f'{server.url}/catalog.json'
        (out/'dataset.json').write_text(json.dumps(card))
        built = build_archive(archive, server, out)
    assert len(built.index)>5 and not len(built.errors)


def test_slow_server_is_given_up_and_asked_again(archive, tmp_path, monkeypatch):
    monkeypatch.setattr('minec2f.chipping.assets.GDAL_HTTP', dict(ONCE, GDAL_HTTP_TIMEOUT=1))
    with serve(archive, [Fault('*/B04.tif', delay_s=2., times=1)]) as server:
        built = build_archive(archive, server, tmp_path/'out', retries=2)
    assert len(built.index)>5 and not len(built.errors)


def test_unreachable_catalogue_leaves_nothing(archive, tmp_path):
    with pytest.raises(NetworkError, match='cannot be opened'):
        build_archive(archive, 'http://127.0.0.1:9/catalog.json', tmp_path/'out')
    assert not (tmp_path/'out').exists()


def test_only_the_needed_bytes_are_read(tmp_path):
    "At most 2.5 times the compressed pixels asked for, where windows are a few blocks wide"
    side = 512
    archive = synth_archive(tmp_path/'archive', n_sites=1, scene_size=side, block=64, mines=3, clouds=(0.,),
                            dates=('2021-06-12',))
    with serve(archive) as server:
        built = build_archive(archive, server, tmp_path/'out', size_m=3000, max_nodata=1.)
        served = {o.path: 0 for o in server.requests}
        for o in server.requests: served[o.path] += o.bytes
    asked = sum(row.width*row.height*(1-row.nodata) for row in built.index.itertuples())
    bands = {archive/path.lstrip('/'): n for path,n in served.items() if 'B0' in path}
    for path,n in bands.items():
        with rasterio.open(path) as src: overviews = sum(1/o**2 for o in src.overviews(1))
        compressed = path.stat().st_size/(1+overviews)*asked/side**2
        assert n<2.5*compressed, (path, n/compressed)
    assert len(bands) and len(built.index)


def test_speed_beside_bare_reads(tmp_path):
    """Chips are made at 80 % of the rate of the windowed reads that they need, or better: blocks of 1024 px and
    predictor, as in the archives of Sentinel-2; processor time, in turn, chip by chip, so that other work on the
    machine does not decide."""
    scenes = local_scenes(tmp_path, n=1, per_row=10, block=1024)
    usable, *_ = load_source(scenes/'mines.gpkg', 'other')
    tasks, read = plan_tasks(usable, margin_m=300).to_dict('records'), LocalRasters(scenes/'scenes')
    make = partial(try_task, make=partial(make_chip, read=read, out=tmp_path/'out'))
    def bare(task):
        with rasterio.open(scenes/'scenes'/'0.tif') as src:
            bounds = transform_bounds(task['epsg'], src.crs, *window_of(task))
            return src.read(window=snap_window(bounds, src.transform))
    def timed(f, task):
        start = time.process_time()
        f(task)
        return time.process_time()-start
    for o in tasks[:3]: bare(o), make(o)
    ours, reads = np.array([(timed(make, o), timed(bare, o)) for o in tasks]).sum(0)
    print(f'{len(tasks)} chips: {ours/reads:.2f} times the time of bare reads')
    assert len(tasks)==100 and ours/reads<1/.8


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak memory of a process is read from /proc')
def test_memory_does_not_grow_with_the_scene(tmp_path):
    local_scenes(tmp_path, n=1, side=10980)
    peak = "next(o.split()[1] for o in open('/proc/self/status') if o.startswith('VmHWM'))"
    code = script(tmp_path, tmp_path/'out', f'print(len(built.index), {peak})')
    worker = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    n, kilobytes = worker.stdout.split()
    assert int(n)==25 and int(kilobytes)<1e6


def test_built_folder_is_a_dataset(scenes, tmp_path):
    built = build_local(scenes, tmp_path/'out')
    index = load_index(tmp_path/'out')
    assert index['id'].tolist()==built.index['id'].tolist()
    assert (index['mask']!='').all() and (index['polygons']=='').all()


# ---- archives of which every item is odd ------------------------------------------------------

def edited(archive, folder, edit):
    "A copy of an archive in which every item has been edited: `edit(item, folder of its files)`"
    shutil.copytree(archive, folder)
    for path in folder.glob('sentinel-2-l2a/*/*.json'):
        item = json.loads(path.read_text())
        edit(item, path.parent)
        path.write_text(json.dumps(item))
    return folder


def without_nir(item, files): del item['assets']['nir']


def without_crs(item, files):
    "Neither the catalogue nor the files know where they are"
    for o in [item['properties'], *item['assets'].values()]:
        for k in [k for k in o if k.startswith('proj:')]: del o[k]
    for path in files.glob('*.tif'):
        with rasterio.open(path) as src: x, profile = src.read(), src.profile
        with rasterio.open(path, 'w', **(profile | dict(crs=None))) as f: f.write(x)


def wrong_nodata(item, files):
    for o in item['assets'].values(): o['nodata'] = -9999


def cloudy(item, files):
    for path in files.glob('SCL.tif'):
        with rasterio.open(path) as src: profile = src.profile
        with rasterio.open(path, 'w', **profile) as f: f.write(np.full(f.shape, 9, np.uint8), 1)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('edit,reason,says', [
    (without_nir, 'BandError', 'B08 was asked for'),
    (without_crs, 'CRSError', 'no CRS'),
    (cloudy, 'SceneError', 'cloudy'),
    (wrong_nodata, 'RasterError', 'what the catalogue says')])
def test_bad_scenes_give_reasons_and_no_chips(archive, tmp_path, edit, reason, says):
    folder = edited(archive, tmp_path/'archive', edit)
    built = build_archive(archive, folder/'catalog.json', tmp_path/'out')
    assert len(built.index)==0 and len(built.errors)>5 and set(built.errors['error'])=={reason}
    assert built.errors['message'].str.contains(says).all() and not list((tmp_path/'out').glob('images/*'))


def test_polygon_larger_than_its_scenes(archive, tmp_path):
    disc = gpd.read_file(archive/'polygons.gpkg').geometry.iloc[0].centroid.buffer(.3)
    huge = gpd.GeoDataFrame(dict(polygon_id=['huge']), geometry=[disc], crs=4326)
    options = OPTIONS | dict(source=None, max_side_m=20000)
    built = build_coarse_dataset(huge, archive/'catalog.json', tmp_path/'out', **options)
    assert len(built.index)==0 and set(built.errors['error'])<={'RasterError','SceneError'} and len(built.errors)>4


# ---- odd items beside good ones ---------------------------------------------------------------

MINE = box(500200, 4999400, 500700, 4999800)  # in a scene of 128 px from 500000, 5000000, EPSG:32633


def write_band(path, x):
    with rasterio.open(path, 'w', driver='GTiff', count=1, dtype=x.dtype, height=128, width=128, crs='EPSG:32633',
                       transform=from_origin(500000, 5000000, 10, 10), nodata=0) as f: f.write(x, 1)


def scene(root, name, level, day='2019-06-15', cloud=0., **more):
    """A scene by hand, as somebody writes a catalogue without a library: all bands have the DN `level`, and a slope;
    returns its item"""
    folder = root/name
    folder.mkdir(parents=True)
    pixels = np.full((128,128), level, np.uint16) + np.arange(128, dtype=np.uint16)
    for band in ('B02','B03','B04','B08'): write_band(folder/f'{band}.tif', pixels)
    write_band(folder/'SCL.tif', np.full((128,128), 4, np.uint8))
    ring = [[15., 45.142], [15.0163, 45.142], [15.0163, 45.154], [15., 45.154], [15., 45.142]]
    properties = {'datetime': f'{day}T10:00:00Z', 'eo:cloud_cover': cloud, 's2:mgrs_tile': f'T{day}',
                  's2:processing_baseline': '02.12'}
    return dict(type='Feature', stac_version='1.0.0', id=name, geometry=dict(type='Polygon', coordinates=[ring]),
                bbox=[15., 45.142, 15.0163, 45.154], links=[], properties=properties,
                assets={k: dict(href=f'./{k}.tif') for k in ('B02','B03','B04','B08','SCL')}) | more


def catalogue(root, items):
    "Items by name (or whatever stands in their files), and a page that links them"
    for name,item in items.items():
        (root/name/f'{name}.json').write_text(item if isinstance(item, str) else json.dumps(item))
    links = [dict(rel='item', href=f'./{o}/{o}.json') for o in items]
    page = dict(type='Catalog', stac_version='1.0.0', id='c', description='by hand', links=links)
    (root/'catalog.json').write_text(json.dumps(page))
    return root/'catalog.json'


def build_by_hand(where, out, **kwargs):
    polygons = gpd.GeoDataFrame(dict(polygon_id=['p']), geometry=[MINE], crs=32633).to_crs(4326)
    options = dict(dates='2019-01-01/2024-12-31', progress=False, retries=1, wait_s=.01)
    return build_coarse_dataset(polygons, where, out, **(options | kwargs))


# What is done to the best scene, and the word of the reason; '' where the scene is used nevertheless

def red_gone(o, files): (files/'B04.tif').unlink()
def red_cut_off(o, files): (files/'B04.tif').write_bytes((files/'B04.tif').read_bytes()[:900])
def red_is_a_page(o, files): (files/'B04.tif').write_text('<html>not found</html>')
def lacks_nir(o, files): del o['assets']['B08']
def lacks_quality(o, files): del o['assets']['SCL']
def red_on_silent_server(o, files): o['assets']['B04']['href'] = 'http://127.0.0.1:9/B04.tif'
def no_time(o, files): o['properties']['datetime'] = None
def no_place(o, files): o.update(bbox=None, geometry=None)
def no_assets(o, files): o['assets'] = {}
def odd_baseline(o, files): o['properties']['s2:processing_baseline'] = 'latest'
def box_with_heights(o, files): o.update(bbox=[15., 45.142, 0., 15.0163, 45.154, 100.], geometry=None)


def odd_scale(o, files):
    for asset in o['assets'].values(): asset['raster:bands'] = [dict(scale=1., offset=0.)]


def odd_type(o, files):
    for asset in o['assets'].values(): asset['raster:bands'] = [dict(data_type='something')]


def offset_unsaid(o, files):
    del o['properties']['s2:processing_baseline']
    o['properties']['datetime'] = '2023-06-15T10:00:00Z'


def odd_grid(o, files):
    o['properties'].update({'proj:epsg': None, 'proj:shape': [128,128], 'proj:transform': [0]*6})


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('spoil,says', [
    (red_gone, 'missing or damaged'), (red_cut_off, 'missing or damaged'), (red_is_a_page, 'missing or damaged'),
    (red_on_silent_server, 'connection broke'), (lacks_nir, 'B08 was asked for'), (lacks_quality, 'scl was asked for'),
    (no_time, 'its time cannot be read'), (no_place, 'nowhere'), (no_assets, 'no asset'),
    (odd_scale, 'mean reflectance'), (odd_type, 'nodata, type, grid'), (odd_baseline, "'latest' is not known"),
    (offset_unsaid, 'offset_applied=True, or False'), (odd_grid, ''), (box_with_heights, '')])
def test_next_best_scene_is_taken(tmp_path, spoil, says):
    best, good = scene(tmp_path, 'best', 2000, cloud=0), scene(tmp_path, 'good', 3000, '2019-07-01', cloud=9)
    spoil(best, tmp_path/'best')
    built = build_by_hand(catalogue(tmp_path, dict(best=best, good=good)), tmp_path/'out')
    assert built.index['scenes'].tolist()==['good' if says else 'best']
    x, *_ = read_chip(tmp_path/'out'/'images'/'p.tif')
    assert (x//1000==(3 if says else 2)).all()
    assert built.errors[['stage','id']].values.tolist()==([['scenes','best']] if says else [])
    assert built.errors['message'].str.contains(says).all()


@pytest.mark.filterwarnings('ignore')
def test_chip_fails_only_where_no_scene_is_left(tmp_path):
    scenes = {o: scene(tmp_path, o, 2000, f'2019-06-{k+10}') for k,o in enumerate('abc')}
    for o in 'ab': (tmp_path/o/'B04.tif').unlink()
    del scenes['c']['assets']['B02']
    built = build_by_hand(catalogue(tmp_path, scenes), tmp_path/'out')
    chip = built.errors[built.errors['stage']=='chips'].iloc[0]
    assert not len(built.index) and chip['error']=='SceneError' and all(f'{o}: ' in chip['message'] for o in 'abc')
    odd = built.errors[built.errors['stage']=='scenes']
    assert dict(zip(odd['id'], odd['error']))==dict(a='RasterError', b='RasterError', c='BandError')


@pytest.mark.filterwarnings('ignore')
def test_each_odd_scene_is_one_row_and_a_resumed_build_the_same(archive, tmp_path):
    def empty_one_day(item, files):
        if '20210612' in item['id']: (files/'B08.tif').write_bytes(b'')
    folder = edited(archive, tmp_path/'archive', empty_one_day)
    def build(out, **kwargs): return build_archive(archive, folder/'catalog.json', tmp_path/out, **kwargs)
    whole = build('whole')
    odd = whole.errors[whole.errors['stage']=='scenes']['id']
    assert len(odd)>1 and not odd.duplicated().any() and odd.str.contains('20210612').all() and len(whole.index)>5
    pd.testing.assert_frame_equal(build('two', workers=2).errors, whole.errors)
    cut, *emptied = sorted((tmp_path/'two'/'rows').glob('*.json'))[:3]  # a power failure
    cut.write_text(cut.read_text()[:50])
    for o in emptied: o.write_text('')
    (tmp_path/'two'/'errors.csv').unlink()
    build('two')
    assert files(tmp_path/'two')==files(tmp_path/'whole')


def test_catalogue_that_changes_is_read_again(tmp_path):
    def used(where, out): return build_by_hand(where, tmp_path/out).index['scenes'].tolist()
    old = scene(tmp_path, 'old', 2000, cloud=30)
    where = catalogue(tmp_path, dict(old=old))
    assert used(where, 'one')==['old']
    catalogue(tmp_path, dict(old=old, new=scene(tmp_path, 'new', 3000, '2019-08-01', cloud=1)))
    assert used(where, 'two')==['new']
    old['properties']['eo:cloud_cover'] = 0.
    catalogue(tmp_path, dict(old=old))
    assert used(tmp_path/'two'/'scenes.json', 'three')==['new']  # a list is a catalogue, too
    assert used(where, 'two')==['new']  # and what is complete stays


class Api(BaseHTTPRequestHandler):
    "As little of a STAC API as a client needs"
    def log_message(self, *args): pass

    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.do_GET()

    def do_GET(self):
        page = dict(type='FeatureCollection', features=self.server.items, links=[])
        if 'search' not in self.path: page = self.landing()
        body = json.dumps(page).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def landing(self):
        url = f'http://127.0.0.1:{self.server.server_port}'
        classes = ['https://api.stacspec.org/v1.0.0/core', 'https://api.stacspec.org/v1.0.0/item-search']
        search = dict(rel='search', href=f'{url}/search', method='GET', type='application/geo+json')
        return dict(type='Catalog', stac_version='1.0.0', id='api', description='a', conformsTo=classes,
                    links=[dict(rel='self', href=url), dict(rel='root', href=url), search])


@pytest.mark.filterwarnings('ignore')
def test_items_of_a_search_are_judged_too(tmp_path):
    clouds = dict(good=20, odd=0, bare=None)
    good, odd, bare = (scene(tmp_path, name, 2000, cloud=cloud) for name,cloud in clouds.items())
    for item in (good, odd, bare):
        for k in item['assets']: item['assets'][k] = dict(href=str(tmp_path/item['id']/f'{k}.tif'))
    odd['properties'].update(datetime='soon')
    bare.update(geometry=None, bbox=None)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Api)
    server.items = [odd, good, bare, 'not an item']
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: built = build_by_hand(f'http://127.0.0.1:{server.server_port}', tmp_path/'out')
    finally:
        server.shutdown()
        server.server_close()
    assert built.index['scenes'].tolist()==['good']
    assert set(built.errors['id'])=={'odd','bare','None'} and set(built.errors['stage'])=={'scenes'}


@pytest.mark.parametrize('kwargs,says', [
    (dict(dates='2019-13-45/2020-01-01'), 'dates='), (dict(dates='2020-01-01/2019-01-01'), 'lies after'),
    (dict(domain='rough'), 'coarse, fine'), (dict(engine='slurm'), 'local, ray'), (dict(max_side_m=0), 'max_side_m=0'),
    (dict(scene_cloud=50), 'scene_cloud=50'), (dict(bands='B04'), 'list of names'),
    (dict(resampling='best'), 'resampling'), (dict(offset_applied='yes'), 'offset_applied=')])
def test_options_are_refused_before_anything_is_fetched(tmp_path, kwargs, says):
    with pytest.raises(ValueError, match=says):
        build_by_hand('http://127.0.0.1:9/catalog.json', tmp_path/'out', **kwargs)
    assert not (tmp_path/'out').exists()


def test_folders_of_others_stay_as_they_are(scenes, tmp_path):
    own = build_local(scenes, tmp_path/'own')
    (tmp_path/'own'/'notes.txt').write_text('of the user')
    pd.testing.assert_frame_equal(build_local(scenes, tmp_path/'own').index, own.index)
    assert (tmp_path/'own'/'notes.txt').read_text()=='of the user'
    (tmp_path/'theirs'/'images').mkdir(parents=True)
    (tmp_path/'theirs'/'index.csv').write_text('id,site,domain\na,a,fine\n')
    (tmp_path/'link').symlink_to(tmp_path/'theirs')
    before = files(tmp_path/'theirs')
    for out in ('theirs','link'):
        with pytest.raises(WriteError, match='index.csv'): build_local(scenes, tmp_path/out)
        with pytest.raises(WriteError, match='index.csv'): build_by_hand('http://127.0.0.1:9/', tmp_path/out)
    assert files(tmp_path/'theirs')==before
