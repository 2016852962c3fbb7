"Refining an inventory: what the file keeps, what is read of a large image, and real data."
import subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio, shapely, torch
from rasterio.transform import from_origin
from shapely.geometry import Point, box

from minec2f.bands import BandStats
from minec2f.bundle import Bundle
from minec2f.inputs import InputSpec
from minec2f.raster import Grid, write_raster
from minec2f.refine import RESULT_COLUMNS, refine_polygons

class Bright(torch.nn.Module):
    def forward(self, x): return torch.stack([0*x[:,0], 40*(x[:,0]-.2)], 1)

def bright(bands=('B04',)): return Bundle(Bright(), InputSpec(list(bands), BandStats(bands, 1, 0., 1.), size=64))

GRID = Grid(rasterio.CRS.from_epsg(32723), from_origin(600000, 7700000, 10, 10), 200, 240)

@pytest.fixture
def image(tmp_path):
    yy, xx = np.mgrid[:200,:240]
    dn = np.where(np.hypot(xx-100, yy-90)<30, 3500, 1000).astype(np.uint16)
    write_raster(tmp_path/'a.tif', dn, GRID, nodata=0, names=['B04'])
    return tmp_path/'a.tif'

def refine(*args, **kw): return refine_polygons(bright(), *args, progress=False, device='cpu', **kw)

def layer(**columns):
    shapes = [Point(601000, 7699100).buffer(500), box(600100, 7698200, 600400, 7698500), Point(601000, 7699100)]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=GRID.crs)

def test_every_kind_of_column_survives(image, tmp_path):
    "Dates, missing integers, booleans, text with accents, odd names, in order; the geometry column has its own name"
    kinds = layer(**{'COUNTRY NAME': ['São Tomé', None, ''], 'year': pd.array([2019, None, 3], 'Int32'),
                     'when': pd.to_datetime(['2019-01-01']*3), 'big': np.array([2**60, 1, -1]),
                     'ok': [True, False, True], 'x': [1.5, np.nan, -np.inf]}).rename_geometry('outline')
    kinds.to_crs(4326).to_file(tmp_path/'in.gpkg', layer='mines')
    before = gpd.read_file(tmp_path/'in.gpkg')
    refine(tmp_path/'in.gpkg', image, tmp_path/'out.gpkg')
    after = gpd.read_file(tmp_path/'out.gpkg', layer='out')
    columns = list(before.columns.drop('geometry'))
    assert list(after)==[*columns, *RESULT_COLUMNS, 'geometry'] and after.crs==before.crs
    pd.testing.assert_frame_equal(pd.DataFrame(after[columns]), pd.DataFrame(before[columns]))
    assert refine(kinds, image, tmp_path/'x.gpkg').geometry.name=='outline'

def test_index_and_input_are_left_alone(image, tmp_path):
    before = layer(name=list('abc')).set_index(pd.Index([7, 7, 3]))
    copy = before.copy()
    after = refine(before, image, tmp_path/'out.gpkg')
    assert list(after.index)==[7, 7, 3] and before.equals(copy)
    assert list(after.status)==['refined', 'kept: no mine found', 'kept: no polygon']
    assert after.geometry.iloc[2].equals(before.geometry.iloc[2])

def test_heights_and_collections(image, tmp_path):
    "Outlines with heights, and polygons among lines, are refined like any others"
    disk = Point(601000, 7699100).buffer(500)
    among_lines = shapely.GeometryCollection([disk, shapely.LineString([(0,0),(1,1)])])
    shapes = [shapely.force_3d(disk, 5.), among_lines, disk]
    after = refine(gpd.GeoDataFrame(geometry=shapes, crs=GRID.crs), image, tmp_path/'out.gpkg')
    assert after.area_after_ha.round(6).nunique()==1 and not after.has_z.any() and (after.status=='refined').all()

def test_other_formats(image, tmp_path):
    "A shapefile, and GeoJSON, which is in degrees"
    want = refine(layer(name=list('abc'))[:2], image, tmp_path/'x.gpkg').area_after_ha
    for name,crs in (('in.shp', GRID.crs), ('in.geojson', 4326)):
        layer(name=list('abc'))[:2].to_crs(crs).to_file(tmp_path/name)
        assert np.allclose(refine(tmp_path/name, image, tmp_path/'out.gpkg').area_after_ha, want, rtol=1e-5)

def test_several_classes(image, tmp_path):
    "All that is not background is mine"
    class Two(torch.nn.Module):
        def forward(self, x): return torch.stack([0*x[:,0], 40*(x[:,0]-.2), 40*(x[:,0]-.2)+.1], 1)
    bundle, mines = bright(), layer(name=list('abc'))
    bundle.model = Two()
    bundle.spec.classes = 'background', 'pit', 'dump'
    after = refine_polygons(bundle, mines, image, tmp_path/'out.gpkg', progress=False, device='cpu')
    want = refine(mines, image, tmp_path/'x.gpkg')
    assert np.isclose(after.area_after_ha[0], want.area_after_ha[0])

def test_a_scale_for_each_band(image, tmp_path):
    "Numbers may mean something else in each band"
    with rasterio.open(image) as f: dn = f.read()
    write_raster(tmp_path/'two.tif', np.concatenate([dn, dn//2]), GRID, nodata=0, names=['B04','B08'])
    mines = layer(name=list('abc'))
    after = refine_polygons(bright(['B04','B08']), mines, tmp_path/'two.tif', tmp_path/'out.gpkg', progress=False,
                            device='cpu', scale=[1e-4, 2e-4])
    assert np.isclose(after.area_after_ha[0], refine(mines, image, tmp_path/'x.gpkg').area_after_ha[0])

def test_failure_half_way_leaves_the_earlier_file(image, tmp_path):
    mines, out = layer(name=list('abc')), tmp_path/'out'/'out.gpkg'
    refine(mines, image, out)
    before = out.read_bytes()
    class Failing(Bright):
        def forward(self, x): raise KeyboardInterrupt
    bundle = bright()
    bundle.model = Failing()
    with pytest.raises(KeyboardInterrupt): refine_polygons(bundle, mines, image, out, device='cpu')
    assert [o.name for o in out.parent.iterdir()]==['out.gpkg'] and out.read_bytes()==before

LARGE = '''
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_refine import GRID, bright, layer
from minec2f.refine import refine_polygons
def peak(): return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/1024
folder, mines = Path(sys.argv[1]), layer(name=list('abc'))
refine_polygons(bright(), mines, folder/'a.tif', folder/'warm.gpkg', progress=False, device='cpu')
before = peak()
refine_polygons(bright(), mines, folder/'large.tif', folder/'out.gpkg', progress=False, device='cpu')
print(peak()-before)
'''

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak of memory is read from /proc')
def test_large_image_does_not_enter_memory(image, tmp_path):
    "An image of 2 GB of pixels (sparse on the disk): the whole process, GDAL included, grows by a small part of that"
    profile = dict(driver='GTiff', count=1, dtype='uint16', height=32000, width=32000, nodata=0,
                   crs=GRID.crs, transform=GRID.transform, tiled=True,
                   blockxsize=256, blockysize=256, compress='deflate', sparse_ok=True)
    with rasterio.open(image) as small, rasterio.open(tmp_path/'large.tif', 'w', **profile) as f:
        f.write(small.read(), window=((0,200),(0,240)))
        f.descriptions = ('B04',)
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', LARGE, str(tmp_path), str(Path(__file__).parent)],
                          capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert float(done.stdout)<100
    small, large = (gpd.read_file(tmp_path/o) for o in ('warm.gpkg', 'out.gpkg'))
    assert np.allclose(small.area_after_ha[:2], large.area_after_ha[:2]) and list(small.status)==list(large.status)

def test_real_outlines(real, tmp_path):
    "Real chips in degrees, one an outline: a network that knows the mask finds it again inside the outline"
    data = real/'tailings_br'
    index = pd.read_csv(data/'index.csv', dtype=str)
    index = index[index.domain=='coarse'].head(6) if 'domain' in index else index.head(6)
    for o in index.id:
        with rasterio.open(data/'masks'/f'{o}.tif') as f: mask, grid = f.read(), Grid(f.crs, f.transform, *f.shape)
        write_raster(tmp_path/f'{o}.tif', mask, grid, names=['label'])
    class Oracle(torch.nn.Module):
        def forward(self, x): return torch.stack([1-2*x[:,0], 2*x[:,0]-1], 1)
    oracle = SimpleNamespace(model=Oracle(), bands=['label'], classes=['background','mine'], size=64,
                             encode=lambda dn, valid: np.where(valid, dn==1, np.nan).astype(np.float32))
    outlines = data/'coarse_polygons.gpkg'
    done = refine_polygons(oracle, outlines, tmp_path, tmp_path/'out.gpkg', progress=False, device='cpu')
    refined = done[done.status=='refined']
    assert len(refined)>=4 and (refined.area_after_ha<refined.area_before_ha).all()
    coarse = gpd.read_file(outlines).geometry[refined.index]
    assert (refined.difference(coarse.buffer(1e-7)).area<1e-12).all() and done.is_valid.all()
