"An area: killed and gone on with, by one process, several and Ray, under clouds, without scenes, from a broken server"
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio, torch
from rasterio.features import shapes
from shapely.geometry import Polygon, box, shape

from minec2f.bands import BandStats
from minec2f.bundle import Bundle, save_bundle
from minec2f.core import DatasetError, WriteError
from minec2f.inputs import InputSpec
from minec2f.mapping import map_area
from minec2f.models import mine_model
from minec2f.raster import geodesic_ha, read_grid
from minec2f.world.archive import synth_archive
from minec2f.world.fileserver import Fault, serve

BANDS, DATES = ['B04','B08'], '2021-01-01/2023-12-31'
ONCE = dict(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR', GDAL_HTTP_MAX_RETRY=0)  # GDAL itself asks no second time


def input_spec(size): return InputSpec(BANDS, BandStats(BANDS, 1, [.13,.25], [.002,.005]), size=size, res=10.)


class Everything(torch.nn.Module):
    def forward(self, x): return torch.stack([0*x[:,0], 0*x[:,0]+3], 1)

class Bright(torch.nn.Module):
    def forward(self, x): return torch.stack([0*x[:,0], torch.nan_to_num(x[:,0])], 1)

def by_hand(network): return Bundle(network(), input_spec(32))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A bundle, an archive of one place and one of two zones, and where its scenes lie"
    root = tmp_path_factory.mktemp('area')
    synth_archive(root/'archive', n_sites=2, scene_size=160, mines=3, bands=BANDS, clouds=(0.,), dates=('2021-06-12',))
    torch.manual_seed(0)
    model = mine_model(BANDS, encoder='resnet18', pyramid=32, segmentation=32)
    save_bundle(root/'bundle', SimpleNamespace(model=model, dls=SimpleNamespace(spec=input_spec(64))))
    grids = [read_grid(o) for o in sorted((root/'archive'/'truth').glob('*.tif'))]
    places = [gpd.GeoSeries([box(*o.bounds)], crs=o.crs).to_crs(4326) for o in grids]
    pd.concat(places, ignore_index=True).to_frame('geometry').to_file(root/'places.gpkg')
    places[1].to_crs(grids[1].crs).centroid.buffer(420).to_frame('geometry').to_file(root/'small.gpkg')
    return root


def run(folder, out, bundle=None, area=None, catalog=None, **kwargs):
    options = dict(size=64, tile_px=96, scene_cloud=1., wait_s=.01, progress=False) | kwargs
    return map_area(bundle or folder/'bundle', folder/'places.gpkg' if area is None else area,
                    catalog or folder/'archive'/'catalog.json', DATES, out, **options)


def files(out):
    "Every byte of a map; a GeoPackage has the time of its making in it"
    paths = [o for o in sorted(Path(out).rglob('*')) if o.is_file() and o.suffix!='.gpkg' and o.name!='.lock']
    return {o.relative_to(out).as_posix(): o.read_bytes() for o in paths}


@pytest.fixture(scope='module')
def whole(folder): return run(folder, folder/'whole', area=folder/'small.gpkg', tile_px=32)


def test_killed_map_goes_on_to_the_same_bytes_in_another_process(folder, whole, tmp_path):
    out = tmp_path/'killed'
    code = f'''if __name__=='__main__':
        from minec2f.mapping import map_area
        map_area({str(folder/'bundle')!r}, {str(folder/'small.gpkg')!r}, {str(folder/'archive'/'catalog.json')!r},
                 {DATES!r}, {str(out)!r}, size=64, tile_px=32, scene_cloud=1., progress=False)'''
    worker = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code])
    while worker.poll() is None and len(list(out.glob('rows/[!.]*.json')))<3: time.sleep(.002)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    done = {o.name: o.stat().st_mtime_ns for o in (out/'rows').glob('[!.]*.json')}
    assert 3<=len(done)<len(whole.tiles) and not (out/'tiles.geojson').exists(), 'it was over before it was killed'
    (out/'tiles'/'.minec2f-0123456789ab-0').mkdir(exist_ok=True)  # what a kill in the middle of a write leaves
    run(folder, out, area=folder/'small.gpkg', tile_px=32, workers=1)
    assert files(out)==files(whole.folder) and not list(out.rglob('.minec2f-*'))
    assert all((out/'rows'/name).stat().st_mtime_ns==made for name,made in done.items())


def test_ray_makes_the_same_bytes(folder, whole, tmp_path):
    ray = pytest.importorskip('ray')
    os.environ.setdefault('RAY_raylet_start_wait_time_s', '180')  # for a machine that is busy
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='ERROR')
    try: by_ray = run(folder, tmp_path/'ray', area=folder/'small.gpkg', tile_px=32, workers=1, engine='ray')
    finally: ray.shutdown()
    assert files(by_ray.folder)==files(whole.folder) and len(whole.tiles)>5 and len(set(whole.tiles.epsg))==2


def test_polygons_are_those_of_the_whole_map(folder, tmp_path):
    "GDAL outlines the mosaic of a zone at once; where no border of the area is near, these are our polygons"
    found = run(folder, tmp_path/'bright', by_hand(Bright), gpd.read_file(folder/'places.gpkg').iloc[:1])
    with rasterio.open(*found.mosaics) as f:
        assert f.descriptions==('class','probability') and f.nodata==255 and not {'scene','date','dates'} & {*f.tags()}
        x, step = f.read(), f.scales[1]
        patches = [shape(o) for o,_ in shapes(x[0], x[0]==1, transform=f.transform)]
        theirs = gpd.GeoDataFrame(geometry=patches, crs=f.crs)
        theirs['p'] = [(x[1]*step)[rasterio.features.geometry_mask([o], f.shape, f.transform, invert=True)].mean()
                       for o in patches]
    theirs = theirs.to_crs(4326).assign(ha=[geodesic_ha(o) for o in theirs.to_crs(4326).geometry])
    inner = gpd.read_file(folder/'places.gpkg').geometry.iloc[0].buffer(-2e-4)
    ours = gpd.read_parquet(tmp_path/'bright'/'mines.parquet')
    pairs = theirs[theirs.within(inner)].set_geometry(theirs.representative_point()).sjoin(ours)
    assert len(pairs)==theirs.within(inner).sum()==ours.within(inner).sum()>20
    assert np.allclose(pairs.ha, pairs.area_ha, rtol=1e-8) and np.allclose(pairs.p, pairs.mean_probability)
    assert ours.crs==4326 and np.allclose(gpd.read_file(tmp_path/'bright'/'mines.gpkg').area_ha, ours.area_ha)


def test_any_shape_across_two_zones_has_its_hectares(folder, tmp_path):
    "A triangle on a border, and a network that calls all of it a mine"
    place = gpd.read_file(folder/'places.gpkg').geometry.iloc[1]
    west, south, east, north = place.buffer(-1e-3).bounds
    border = 6*round(west/6)
    assert west<border<east
    triangle = Polygon([(west,south), (east,south+1e-3), (border+1e-4,north)]).segmentize(1e-4)  # straight in degrees
    found = run(folder, tmp_path/'all', by_hand(Everything), triangle)
    assert len(found.polygons)==1 and len(set(found.tiles.epsg))==2
    assert np.isclose(found.polygons.area_ha[0], geodesic_ha(triangle), rtol=1e-7)
    assert abs(found.polygons.pixels[0]/100/geodesic_ha(triangle)-1)<.003  # UTM stretches by .002 there
    assert found.tiles.union_all().covers(triangle)


def cloudy(archive, folder):
    "A copy of an archive under clouds"
    shutil.copytree(archive, folder)
    for path in folder.rglob('SCL.tif'):
        with rasterio.open(path) as f: profile = f.profile
        with rasterio.open(path, 'w', **profile) as f: f.write(np.full(f.shape, 9, np.uint8), 1)
    return folder/'catalog.json'


def test_outcomes_have_names_and_a_bad_day_ends(folder, tmp_path, monkeypatch):
    few = gpd.read_file(folder/'places.gpkg').iloc[:1]
    with pytest.warns(UserWarning, match='no tile of .* was mapped: .* clouds only'):
        hidden = run(folder, tmp_path/'hidden', by_hand(Bright), few, cloudy(folder/'archive', tmp_path/'archive'))
    shown = hidden.tiles[hidden.tiles.scenes.notna()]
    assert set(shown.outcome)=={'clouds only'} and (shown.covered==0).all() and len(hidden.polygons)==0
    assert len(gpd.read_file(tmp_path/'hidden'/'mines.gpkg'))==0

    monkeypatch.setattr('minec2f.chipping.assets.GDAL_HTTP', ONCE)
    out, fault = tmp_path/'out', Fault('*/B04.tif', status=500, times=None)
    with serve(folder/'archive', [fault]) as server, pytest.warns(UserWarning, match='error'):
        bad = run(folder, out, by_hand(Bright), few, f'{server.url}/catalog.json', retries=1)
    assert set(bad.tiles.outcome)=={'error'} and set(bad.tiles.error)=={'NetworkError'}
    assert not list(out.glob('tiles/*'))
    with serve(folder/'archive') as server:  # the next day
        card = json.loads((out/'map.json').read_text())
        card['imagery']['catalog'] = f'{server.url}/catalog.json'
        (out/'map.json').write_text(json.dumps(card))
        good = run(folder, out, by_hand(Bright), few, f'{server.url}/catalog.json')
    assert set(good.tiles.outcome)=={'mapped'} and len(good.tiles)==len(bad.tiles) and not len(good.errors)


def test_folders_of_others_stay_as_they_are(folder, whole, tmp_path):
    (tmp_path/'theirs').mkdir()
    (tmp_path/'theirs'/'notes.txt').write_text('of the user')
    with pytest.raises(WriteError, match='notes.txt'): run(folder, tmp_path/'theirs')
    assert [o.name for o in (tmp_path/'theirs').iterdir()]==['notes.txt']
    with pytest.raises(DatasetError, match='map.overlap'):
        run(folder, whole.folder, area=folder/'small.gpkg', overlap=0, tile_px=64)
