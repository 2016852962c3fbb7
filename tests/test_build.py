"Building datasets: killed and resumed, on three engines, from bad servers, fast and small"
import json, shutil, signal, subprocess, sys, time
from functools import partial
from pathlib import Path

import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio
from rasterio.transform import from_origin
from shapely.geometry import box

from minec2f.archive import synth_archive
from minec2f.build import build_chips, load_source, try_task
from minec2f.chips import load_index
from minec2f.core import NetworkError
from minec2f.cut import make_chip
from minec2f.fileserver import Fault, serve
from minec2f.imagery import LocalRasters, snap_window
from minec2f.plan import plan_tasks, window_of
from minec2f.stac import build_coarse_dataset

YEARS = '2021-01-01/2023-12-31'
OPTIONS = dict(dates=YEARS, source='maus_v2', margin_m=100, scene_cloud=1., window_cloud=.5, wait_s=.05, progress=False)


@pytest.fixture(scope='module')
def archive(tmp_path_factory): return synth_archive(tmp_path_factory.mktemp('archive')/'archive', n_sites=4, mines=3)


def files(folder):
    "Every byte of a dataset but the address of its (moving) catalogue"
    return {str(o.relative_to(folder)): o.read_bytes() for o in sorted(Path(folder).rglob('*'))
            if o.is_file() and o.name not in ('.lock','dataset.json','scenes.json')}


def local_scenes(folder, n=3, side=1600, per_row=5, block=512):
    "Scenes on a disk, and a grid of square polygons of 1 km on each; pixels only in the corner where polygons are"
    rng, shapes = np.random.default_rng(0), []
    (folder/'scenes').mkdir()
    for k in range(n):
        x0, y0 = 400000, 7500000-k*side*10
        with rasterio.open(folder/'scenes'/f'{k}.tif', 'w', driver='GTiff', count=4, dtype='uint16', height=side, width=side, crs='EPSG:32719',
                           transform=from_origin(x0, y0, 10, 10), nodata=0, tiled=True, blockxsize=block, blockysize=block, compress='deflate', predictor=2,
                           sparse_ok=True) as f:
            f.write(rng.normal(1500, 80, (4,1600,1600)).astype(np.uint16), window=((0,1600), (0,1600)))
            f.descriptions = ('B02','B03','B04','B08')
        shapes += [box(x, y-1000, x+1000, y) for i in range(per_row) for j in range(per_row) for x,y in [(x0+600+i*1400, y0-600-j*1400)]]
    gpd.GeoDataFrame(dict(polygon_id=[f'p{i:03d}' for i in range(len(shapes))]), geometry=shapes, crs=32719).to_file(folder/'mines.gpkg')
    return folder


@pytest.fixture(scope='module')
def scenes(tmp_path_factory): return local_scenes(tmp_path_factory.mktemp('local'))


def build_local(scenes, out, **kwargs): return build_chips(scenes/'mines.gpkg', scenes/'scenes', out, source='other', margin_m=300, progress=False, **kwargs)


def test_killed_build_resumes_to_the_same_files(scenes, tmp_path):
    build_local(scenes, tmp_path/'whole')
    code = f'''if __name__=='__main__':
        from minec2f.build import build_chips, load_source, try_task
        build_chips({str(scenes/'mines.gpkg')!r}, {str(scenes/'scenes')!r}, {str(tmp_path/'killed')!r}, source='other', margin_m=300, progress=False)'''
    kills = 0
    for wanted in (1, 20, 40):
        worker = subprocess.Popen([sys.executable, '-c', code])
        while worker.poll() is None and len(list((tmp_path/'killed').glob('rows/[!.]*.json')))<wanted: time.sleep(.002)
        if worker.poll() is None:
            worker.send_signal(signal.SIGKILL)
            kills += 1
        worker.wait()
    assert kills>0 and not (tmp_path/'killed'/'index.csv').exists(), 'the build was over before it was killed'
    done = {o.name: o.stat().st_mtime_ns for o in (tmp_path/'killed'/'rows').glob('[!.]*.json')}
    (tmp_path/'killed'/'images'/'.0123abcd-p999.tif').mkdir()  # what a kill in the middle of a write leaves
    build_local(scenes, tmp_path/'killed')
    assert files(tmp_path/'killed')==files(tmp_path/'whole')
    assert all((tmp_path/'killed'/'rows'/k).stat().st_mtime_ns==v for k,v in done.items()), 'finished chips were made again'


def test_processes_make_the_same_bytes(archive, tmp_path):
    "(Ray, too: nbs/build_dataset.ipynb)"
    with serve(archive) as server:
        one, many = (build_coarse_dataset(archive/'polygons.gpkg', f'{server.url}/catalog.json', tmp_path/str(k), workers=k, **OPTIONS) for k in (0,2))
    assert len(one.index)>5 and files(one.folder)==files(many.folder)
    pd.testing.assert_frame_equal(one.index, many.index)


@pytest.mark.parametrize('fault,reason', [
    (Fault('*/B04.tif', status=500, times=None), 'NetworkError'), (Fault('*/B04.tif', status=429, times=None), 'NetworkError'),
    (Fault('*/B04.tif', status=404, times=None), 'RasterError'), (Fault('*/SCL.tif', truncate=.3, times=None), 'NetworkError')])
def test_bad_servers_give_reasons_and_no_chips(archive, tmp_path, fault, reason, monkeypatch):
    monkeypatch.setattr('minec2f.stac.GDAL_HTTP', dict(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR', GDAL_HTTP_MAX_RETRY=0))
    with serve(archive, [fault]) as server:
        built = build_coarse_dataset(archive/'polygons.gpkg', f'{server.url}/catalog.json', tmp_path/'out', retries=1, **OPTIONS)
    assert len(built.index)==0 and set(built.errors['error'])=={reason}
    assert not list((tmp_path/'out').glob('images/*')) and not list((tmp_path/'out').glob('rows/*'))
    with serve(archive) as server:  # the next day
        card = json.loads((tmp_path/'out'/'dataset.json').read_text())
        card['imagery']['catalog'] = f'{server.url}/catalog.json'
        (tmp_path/'out'/'dataset.json').write_text(json.dumps(card))
        built = build_coarse_dataset(archive/'polygons.gpkg', f'{server.url}/catalog.json', tmp_path/'out', **OPTIONS)
    assert len(built.index)>5 and not len(built.errors)


def test_slow_server_is_given_up_and_asked_again(archive, tmp_path, monkeypatch):
    monkeypatch.setattr('minec2f.stac.GDAL_HTTP', dict(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR', GDAL_HTTP_MAX_RETRY=0, GDAL_HTTP_TIMEOUT=1))
    with serve(archive, [Fault('*/B04.tif', delay_s=2., times=1)]) as server:
        built = build_coarse_dataset(archive/'polygons.gpkg', f'{server.url}/catalog.json', tmp_path/'out', retries=2, **OPTIONS)
    assert len(built.index)>5 and not len(built.errors)


def test_unreachable_catalogue_leaves_nothing(archive, tmp_path):
    with pytest.raises(NetworkError, match='cannot be opened'):
        build_coarse_dataset(archive/'polygons.gpkg', 'http://127.0.0.1:9/catalog.json', tmp_path/'out', **OPTIONS)
    assert not (tmp_path/'out').exists()


def test_only_the_needed_bytes_are_read(tmp_path):
    "At most 2.5 times the compressed pixels asked for, where windows are a few blocks wide"
    archive = synth_archive(tmp_path/'archive', n_sites=1, scene_size=512, block=64, mines=3, clouds=(0.,), dates=('2021-06-12',))
    with serve(archive) as server:
        built = build_coarse_dataset(archive/'polygons.gpkg', f'{server.url}/catalog.json', tmp_path/'out', size_m=3000, max_nodata=1., **OPTIONS)
        served = {o.path: 0 for o in server.requests}
        for o in server.requests: served[o.path] += o.bytes
    pixels = 512**2
    asked = sum(row.width*row.height*(1-row.nodata) for row in built.index.itertuples())
    for path,n in served.items():
        if 'B0' not in path: continue
        with rasterio.open(archive/path.lstrip('/')) as src: overviews = sum(1/o**2 for o in src.overviews(1))
        compressed = (archive/path.lstrip('/')).stat().st_size/(1+overviews)*asked/pixels
        assert n<2.5*compressed, (path, n/compressed)
    assert len(built.index)


def test_speed_beside_bare_reads(tmp_path):
    """Chips are made at 80 % of the rate of the windowed reads that they need, or better: blocks of 1024 px and predictor, as in the archives of
    Sentinel-2; processor time, in turn, chip by chip, so that other work on the machine does not decide."""
    scenes = local_scenes(tmp_path, n=1, per_row=10, block=1024)
    usable, *_ = load_source(scenes/'mines.gpkg', 'other')
    tasks, read = plan_tasks(usable, margin_m=300).to_dict('records'), LocalRasters(scenes/'scenes')
    def bare(task):
        with rasterio.open(scenes/'scenes'/'0.tif') as src:
            return src.read(window=snap_window(rasterio.warp.transform_bounds(task['epsg'], src.crs, *window_of(task)), src.transform))
    def timed(f, task):
        start = time.process_time()
        f(task)
        return time.process_time()-start
    make = partial(try_task, make=partial(make_chip, read=read, out=tmp_path/'out'))
    for o in tasks[:3]: bare(o), make(o)
    ours, reads = np.array([(timed(make, o), timed(bare, o)) for o in tasks]).sum(0)
    print(f'{len(tasks)} chips: {ours/reads:.2f} times the time of bare reads')
    assert len(tasks)==100 and ours/reads<1/.8


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak memory of a process is read from /proc')
def test_memory_does_not_grow_with_the_scene(tmp_path):
    local_scenes(tmp_path, n=1, side=10980)
    code = f'''from minec2f.build import build_chips, load_source, try_task
built = build_chips({str(tmp_path/'mines.gpkg')!r}, {str(tmp_path/'scenes')!r}, {str(tmp_path/'out')!r}, source='other', margin_m=300, progress=False)
print(len(built.index), next(o.split()[1] for o in open('/proc/self/status') if o.startswith('VmHWM')))'''
    n, kilobytes = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert int(n)==25 and int(kilobytes)<1e6


def test_built_folder_is_a_dataset(scenes, tmp_path):
    built = build_local(scenes, tmp_path/'out')
    index = load_index(tmp_path/'out')
    assert index['id'].tolist()==built.index['id'].tolist() and (index['mask']!='').all() and (index['polygons']=='').all()


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
@pytest.mark.parametrize('edit,reason,says', [(without_nir, 'BandError', 'B08 was asked for'), (without_crs, 'CRSError', 'no CRS'), (cloudy, 'SceneError', 'cloudy'),
                                              (wrong_nodata, 'RasterError', 'what the catalogue says')])
def test_bad_scenes_give_reasons_and_no_chips(archive, tmp_path, edit, reason, says):
    folder = edited(archive, tmp_path/'archive', edit)
    built = build_coarse_dataset(archive/'polygons.gpkg', folder/'catalog.json', tmp_path/'out', **OPTIONS)
    assert len(built.index)==0 and len(built.errors)>5 and set(built.errors['error'])=={reason}
    assert built.errors['message'].str.contains(says).all() and not list((tmp_path/'out').glob('images/*'))


def test_polygon_larger_than_its_scenes(archive, tmp_path):
    huge = gpd.GeoDataFrame(dict(polygon_id=['huge']), geometry=[gpd.read_file(archive/'polygons.gpkg').geometry.iloc[0].centroid.buffer(.3)], crs=4326)
    built = build_coarse_dataset(huge, archive/'catalog.json', tmp_path/'out', max_side_m=20000, **(OPTIONS | dict(source=None)))
    assert len(built.index)==0 and set(built.errors['error'])<={'RasterError','SceneError'} and len(built.errors)>4
