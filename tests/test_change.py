"What changed between maps: another implementation, areas by other tools, files of other programs, refusals, kills."
import os, signal, subprocess, sys, tracemalloc

import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio, shapely
from pyproj import Geod
from rasterio import Affine, features
from rasterio.transform import from_origin
from scipy import ndimage

from minec2f import change
from minec2f.area import area_estimate, area_paragraph, sample_design
from minec2f.change import CHANGES, change_between, change_series, map_date, show_series
from minec2f.core import BundleError, CRSError, GridError, OptionError, RasterError, WriteError
from minec2f.maps import to_polygons
from minec2f.raster import Grid, write_raster

STABLE, GAINED, LOST, UNSURE = range(1, 5)
UTM = rasterio.CRS.from_epsg(32723)
def grid(h, w, crs=UTM, corner=(600000, 7700000), res=10): return Grid(crs, from_origin(*corner, res, res), h, w)

def write(path, p, day, where=None, unknown=None, **tags):
    "A map as another program would write it: probability (h,w) in 0-1, striped, uint8"
    x = np.rint(250*p)
    bands = np.stack([x>=125, x]).astype(np.uint8)
    if unknown is not None: bands[:, unknown] = 255
    where = where or grid(*p.shape)
    with rasterio.open(path, 'w', driver='GTiff', count=2, dtype='uint8', nodata=255, crs=where.crs,
                       transform=where.transform, height=where.height, width=where.width) as f:
        f.write(bands)
        f.descriptions, f.scales = ('class','probability'), (1, .004)
        f.update_tags(**{'scene': f'x_{day.replace("-", "")}.tif', 'bundle': 'abc', 'size': '256'} | tags)
        f.update_tags(1, classes='["background", "mine"]')
    return path

def read(path, band=1):
    with rasterio.open(path) as f: return f.read(band)

def field(seed, shape=(180,150), share=.15, sigma=5):
    "A probability that is mine on a share of the pixels"
    z = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    z = (z-np.quantile(z, 1-share))/z.std()
    return 1/(1+np.exp(-8*z))

def drifted(seed, *other, **kwargs):
    "Fields of which each has a part of the one before"
    fields = [field(seed, **kwargs)]
    for k in other: fields.append(np.clip(.2*fields[-1] + field(k, **kwargs), 0, 1))
    return fields

DAYS = '2017-07-20', '2019-07-15', '2021-07-12', '2023-07-20'

@pytest.fixture
def plain(monkeypatch):
    "Pictures take longer than all the rest"
    from matplotlib.figure import Figure
    monkeypatch.setattr(change, 'show_series', lambda table: Figure((1,1)))

@pytest.fixture
def maps(tmp_path):
    rng = np.random.default_rng(9)
    unknown = [ndimage.gaussian_filter(rng.normal(size=(180,150)), 12)>.055 for _ in DAYS]
    fields = zip(drifted(0, 1, 2, 3), DAYS, unknown)
    return [write(tmp_path/f'm{k}.tif', p, day, unknown=no) for k,(p,day,no) in enumerate(fields)]

# Another implementation: the whole map at once, in floats, by dilation and propagation

def by_hand(a, b, low=.3, high=.8, reach=1):
    "(h,w) classes of two probabilities in 0-1, NaN where not known"
    known = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, 0), np.where(known, b, 0)
    disk, eight = np.ones((2*reach+1,)*2, bool), np.ones((3,3), bool)
    state = 1*((a>=.5)&(b>=.5)) + 4*((a>=.5)^(b>=.5))
    for p,q,what in ((b, a, GAINED), (a, b, LOST)):
        near = ndimage.grey_dilation(q, footprint=disk)
        beyond = (p>=.5) & ~ndimage.binary_dilation(q>=.5, disk)
        part = (p>=.5) & (q<.5) & (p-q>=low-1e-9) & ndimage.binary_dilation(beyond & (p-near>=low-1e-9), disk)
        seeds = beyond & (p-near>=high-1e-9)
        state[ndimage.binary_propagation(seeds, eight, part)] = what
    return np.where(known, state, 255)

def as_float(path):
    x = read(path, 2)
    return np.where(x==255, np.nan, x/250)

@pytest.mark.parametrize('low,high,reach', [(.3, .8, 1), (.25, .5, 1), (.1, .1, 0), (.5, .9, 3)])
def test_against_another_implementation(maps, tmp_path, monkeypatch, low, high, reach):
    want = by_hand(*map(as_float, maps[:2]), low, high, reach)
    assert {*np.unique(want)}>={0, STABLE, GAINED, 255}
    for rows in (512, 64, 16, 3, 1):
        monkeypatch.setattr(change, '_ROWS', rows)
        out = change_between(*maps[:2], tmp_path/'c.tif', low, high, reach)
        assert (read(out)==want).all()
    a, b = map(as_float, maps[:2])
    assert np.allclose(np.nan_to_num(abs(a-b), nan=1.02), read(out, 2)/250, atol=1e-6)

def test_both_ways_are_mirrored(maps, tmp_path):
    one = read(change_between(*maps[:2], tmp_path/'one.tif'))
    back = read(change_between(*maps[1::-1], tmp_path/'back.tif', dates=(2001, 2002)))
    assert (back==np.choose(np.minimum(one, 5), [0, STABLE, LOST, GAINED, UNSURE, 255])).all()

def test_turned_maps_change_alike(maps, tmp_path):
    "Strips run along rows, and know nothing of north"
    turned = []
    for o in maps[:2]:
        unknown = np.rot90(read(o)==255)
        p = np.rot90(np.nan_to_num(as_float(o)))
        turned.append(write(tmp_path/f'turned_{o.name}', p, DAYS[len(turned)], unknown=unknown))
    straight = read(change_between(*maps[:2], tmp_path/'straight.tif'))
    assert (read(change_between(*turned, tmp_path/'turned.tif'))==np.rot90(straight)).all()

@pytest.mark.parametrize('dy,dx', [(0,1), (1,0), (1,1), (-1,1), (-1,-1)])
def test_a_shift_is_no_change(tmp_path, dy, dx):
    p = field(4)
    one, two = write(tmp_path/'a.tif', p, DAYS[0]), write(tmp_path/'b.tif', np.roll(p, (dy,dx), (0,1)), DAYS[1])
    state = read(change_between(one, two, tmp_path/'c.tif', low=.1, high=.1))[2:-2, 2:-2]
    assert not np.isin(state, (GAINED, LOST)).any()
    assert (state==UNSURE).sum()==((read(one)!=read(two))[2:-2, 2:-2]).sum()>50
    exact = read(change_between(one, two, tmp_path/'d.tif', low=.004, high=.004, shift_px=0))[2:-2, 2:-2]
    assert np.isin(exact, (GAINED, LOST)).sum()==(state==UNSURE).sum()

# Hectares, from shapely, pyproj and the pixels

def geodesic_ha(shape): return abs(Geod(ellps='WGS84').geometry_area_perimeter(shape)[0])/1e4

def pixel_ha(where): # hectares of a pixel
    whole = gpd.GeoSeries([shapely.box(*where.bounds).segmentize(100)], crs=where.crs).to_crs(4326)
    return geodesic_ha(whole[0])/(where.height*where.width)

def test_hectares_of_sites(maps, tmp_path, plain):
    "Of the table: those of the pixels, of the polygons, and of the maps' own polygons"
    table = change_series(maps, tmp_path/'out', join_m=60)
    ha = pixel_ha(grid(180, 150))
    total = table.drop(columns=['site','geometry']).groupby('date').sum()
    for k,day in enumerate(DAYS[1:]):
        state = read(tmp_path/'out'/f'change_{DAYS[k]}_{day}.tif')
        assert np.isclose(total.loc[day,'gained_ha'], (state==GAINED).sum()*ha, rtol=1e-4)
        assert np.isclose(total.loc[day,'lost_ha'], (state==LOST).sum()*ha, rtol=1e-4)
    sites = table[table.geometry.notna()][['geometry']].dissolve()
    for path,day in zip(maps, DAYS):
        near = gpd.sjoin(to_polygons(path, tmp_path/'one.gpkg'), sites, predicate='dwithin', distance=60)
        assert np.isclose(total.loc[day,'mapped_ha'], near['area_ha'].sum(), rtol=1e-6)
    stored = gpd.read_file(tmp_path/'out'/'mines.gpkg', layer='mines')
    assert stored.geometry.notna().sum()==(table['area_ha']>0).sum() and stored.crs==UTM
    drawn = stored[stored.geometry.notna()]
    assert drawn.is_valid.all()
    assert np.allclose(drawn.to_crs(4326).geometry.map(geodesic_ha), drawn['area_ha'], rtol=1e-6)
    again = pd.read_csv(tmp_path/'out'/'series.csv')
    assert again[['site','date']].values.tolist()==table[['site','date']].values.tolist()
    assert np.allclose(again.drop(columns=['site','date']), table.drop(columns=['site','date','geometry']), atol=1e-3)

def test_books_balance(maps, tmp_path, plain):
    for kwargs in ({}, dict(never_shrink=True), dict(low=.1, high=.2, shift_px=0)):
        table = change_series(maps, tmp_path/'out', **kwargs)
        for _,site in table.groupby('site'):
            more = site['gained_ha']-site['lost_ha']+site['first_seen_ha']
            assert np.allclose(site['area_ha'].diff()[1:], more[1:], atol=1e-4)
        assert (table['unsure_ha']>0).any() and (table['unseen_ha']>0).any() and (table['first_seen_ha']>0).any()
        shapes = table[table.geometry.notna()]
        if 'never_shrink' in kwargs:
            assert (table['lost_ha']==0).all()
            for _,site in shapes.groupby('site'):
                for a,b in zip(site.geometry, site.geometry[1:]): assert a.difference(b).area<1

def test_what_the_later_polygons_differ_by(maps, tmp_path, plain):
    "Where all is known, polygons of two dates differ by just what was gained and lost"
    clear = [write(tmp_path/f'clear_{o.name}', np.nan_to_num(as_float(o)), day) for o,day in zip(maps, DAYS)]
    table = change_series(clear, tmp_path/'out')
    for _,of_site in table.groupby('site'):
        shapes = [o or shapely.MultiPolygon() for o in of_site.geometry]
        for a,b,row in zip(shapes, shapes[1:], of_site.iloc[1:].itertuples()):
            differ = gpd.GeoSeries([b.difference(a), a.difference(b)], crs=UTM).to_crs(4326).map(geodesic_ha)
            assert np.allclose(differ, [row.gained_ha, row.lost_ha], atol=1e-4)

def test_sites_are_connected(maps, tmp_path, plain):
    "Patches within join_m of each other on any date, by scipy's labels of the pixels"
    table = change_series(maps, tmp_path/'out', join_m=15)
    ever = table[table.geometry.notna()].dissolve('site').geometry
    gaps = [a.distance(b) for k,a in enumerate(ever) for b in ever[k+1:]]
    assert len(ever)>3 and min(gaps)>15
    wide = change_series(maps, tmp_path/'wide', join_m=1e5)
    assert wide['site'].nunique()==1
    assert np.isclose(wide['area_ha'].sum(), table['area_ha'].sum())
    large = change_series(maps, tmp_path/'large', join_m=15, min_area_ha=5)
    assert 0<large['site'].nunique()<table['site'].nunique() and (large.groupby('site')['area_ha'].max()>=5).all()

@pytest.mark.parametrize('where', [
    Grid(rasterio.CRS.from_epsg(4326), from_origin(-50, -10, 1e-4, 1e-4), 180, 150),
    Grid(UTM, Affine.translation(600000, 7700000)*Affine.rotation(25)*Affine.scale(10, -10), 180, 150),
    Grid(rasterio.CRS.from_epsg(32760), from_origin(818500, 8100000, 10, 10), 180, 150)],
    ids=['degrees','turned','antimeridian'])
def test_other_grids(tmp_path, where, plain):
    pair = [write(tmp_path/f'{k}.tif', p, day, where) for k,(p,day) in enumerate(zip(drifted(5, 6), DAYS))]
    table = change_series(pair, tmp_path/'out')
    state = read(tmp_path/'out'/f'change_{DAYS[0]}_{DAYS[1]}.tif')
    outlines = [shapely.geometry.shape(o) for o,v in features.shapes(state, transform=where.transform) if v==GAINED]
    in_degrees = gpd.GeoSeries(outlines, crs=where.crs).to_crs(4326)
    assert len(outlines)>2 and np.isclose(table['gained_ha'].sum(), in_degrees.map(geodesic_ha).sum(), rtol=1e-6)

# A pixel is compared with the last map that agreed

def test_a_slow_change_and_a_cloud(tmp_path, plain):
    p = np.full((4,40,40), .05)
    p[2:, 10:20, 10:20] = .95    # opened in the third year, under a cloud in the second
    p[1, 25:35, 25:35] = .55     # a doubt in the second year only
    cloud = np.zeros((40,40), bool); cloud[5:25, 5:25] = True
    unknown = None, cloud, None, None
    paths = [write(tmp_path/f'{day}.tif', o, day, unknown=no) for o,day,no in zip(p, DAYS, unknown)]
    table = change_series(paths, tmp_path/'out')
    ha = pixel_ha(grid(40, 40))
    assert table['date'].tolist()==[*DAYS]
    assert np.allclose(table['area_ha'], [0, 0, 100*ha, 100*ha], rtol=1e-3)
    assert np.allclose(table['gained_ha'], [0, 0, 100*ha, 0], rtol=1e-3)
    lonely = change_series(paths[:2], tmp_path/'two')
    assert len(lonely)==0 and len(gpd.read_file(tmp_path/'two'/'mines.gpkg'))==0

def test_nothing_on_the_maps(tmp_path, plain):
    for k,p in enumerate((0., 1.)):
        pair = [write(tmp_path/f'{k}{day}.tif', np.full((30,20), p), day) for day in DAYS[:2]]
        assert len(change_series(pair, tmp_path/f'out{k}'))==2*k
    blank = [write(tmp_path/f'b{day}.tif', np.zeros((30,20)), day, unknown=np.ones((30,20), bool)) for day in DAYS[:2]]
    assert (read(change_between(*blank, tmp_path/'c.tif'))==255).all() and len(change_series(blank, tmp_path/'out'))==0

# The area of change, from a sample

def test_area_of_change_from_samples(tmp_path):
    "Drawn again and again: right on average, and the intervals hold the truth about as often as they say"
    before, after = (field(k, (120,120), .15, 5) for k in (11, 12))
    after = np.maximum(before*(np.arange(120)>40), after*(np.arange(120)[:,None]<60))
    a, b = before>=.5, after>=.5
    truth = np.array(CHANGES, object)[np.select([a&b, b, a], [STABLE, GAINED, LOST])]
    noise = np.random.default_rng(0).normal(0, .1, (2,120,120))
    seen = [write(tmp_path/f'{k}.tif', np.clip(np.roll(p, k, 0)+noise[k], 0, 1), DAYS[k])
            for k,p in enumerate((before, after))]
    out = change_between(*seen, tmp_path/'change.tif')
    assert {*np.unique(read(out))}=={0, STABLE, GAINED, LOST, UNSURE}
    ha = pixel_ha(grid(120, 120))
    true = {k: (truth==k).sum()*ha for k in ('stable','gained','lost')}
    found, held = [], []
    for seed in range(12):
        sample_design(out, 300, tmp_path/f's{seed}.gpkg', rim_m=50, least=40, seed=seed)
        points = gpd.read_file(tmp_path/f's{seed}.gpkg', layer='sample')
        row, col = points['id'].str.extract(r'r(\d+)c(\d+)').astype(int).to_numpy().T
        points.assign(reference=truth[row, col]).to_file(tmp_path/f's{seed}.gpkg', layer='sample')
        estimate = area_estimate(tmp_path/f's{seed}.gpkg', map_path=out)
        table = estimate.table.loc['area_ha']
        found.append({k: table.loc[k,'estimate'] for k in true})
        held.append({k: table.loc[k,'low']<=o<=table.loc[k,'high'] for k,o in true.items()})
    found, share = pd.DataFrame(found), pd.DataFrame(held).mean()
    off = (found.mean()-pd.Series(true))/(found.std()/np.sqrt(len(found)))
    assert (abs(off)<3.5).all() and (share>=.75).all(), (off, share)
    assert 'The area of gained is estimated at' in area_paragraph(estimate)

# Files of other programs, and refusals

def test_other_names_of_dates():
    for scene,day in (('S2B_MSIL2A_20210712T102031_N0301_R065_T32TQM.SAFE', '2021-07-12'), ('s0000.tif', ''),
                      ('LC08_L2SP_007068_20190715_20200827_02_T1', '2019-07-15'), ('x_20211340.tif', ''),
                      ('2021-07-12.tif', '2021-07-12'), ('x_20190230.tif', ''), ('x_19991399_20190715', '2019-07-15')):
        assert map_date(dict(scene=scene))==day

def test_refusals(maps, tmp_path):
    a, b = maps[:2]
    p = field(0)
    odd = {'grid': (GridError, 'pass align=True', dict(where=grid(180, 150, corner=(600040, 7700000)))),
           'model': (BundleError, 'pass any_model=True', dict(bundle='def')),
           'size': (BundleError, 'size 256 and 512', dict(size='512')),
           'season': (OptionError, 'pass any_season=True', dict(scene='x_20200120.tif')),
           'dates': (OptionError, 'the earlier map was expected first', dict(scene='x_20160720.tif')),
           'same': (OptionError, 'the earlier map was expected first', dict(date='2017-07-20'))}
    for name,(error,said,how) in odd.items():
        other = write(tmp_path/f'{name}.tif', p, DAYS[1], **how)
        with pytest.raises(error, match=said): change_between(a, other, tmp_path/'no.tif')
        with pytest.raises(error, match=said): change_series([a, other], tmp_path/'no')
    change_between(a, tmp_path/'grid.tif', tmp_path/'yes.tif', align=True)
    change_between(a, tmp_path/'model.tif', tmp_path/'yes.tif', any_model=True)
    change_between(a, tmp_path/'season.tif', tmp_path/'yes.tif', any_season=True)
    change_between(a, tmp_path/'dates.tif', tmp_path/'yes.tif', dates=(2001, '2003-05'))
    write_raster(tmp_path/'scene.tif', np.ones((3,180,150), np.uint16), grid(180, 150))
    (tmp_path/'text.tif').write_text('no map')
    with rasterio.open(write(tmp_path/'flat.tif', p, DAYS[1]), 'r+') as f: f.scales = 1, 1
    for o,said in (('scene.tif', 'a map as predict_scene'), ('text.tif', 'cannot be read'), ('none.tif', 'not exist'),
                   ('flat.tif', 'lost the scale'), ('yes.tif', 'shows changes already')):
        with pytest.raises(RasterError, match=said): change_between(a, tmp_path/o, tmp_path/'no.tif')
    for o in (5, None, [a]):
        with pytest.raises(RasterError): change_between(a, o, tmp_path/'no.tif')
    nowhere = write(tmp_path/'nowhere.tif', p, DAYS[1], Grid(None, grid(1, 1).transform, 180, 150))
    with pytest.raises(CRSError): change_between(a, nowhere, tmp_path/'no.tif')
    for wrong in (dict(low=0), dict(low=.9), dict(high=2), dict(shift_px=1.5), dict(shift_px=-1), dict(dates=2001),
                  dict(dates=('1.1.2001', 2002)), dict(dates=(2001, '2002-13'))):
        with pytest.raises(OptionError): change_between(a, b, tmp_path/'no.tif', **wrong)
    for dst in (b, tmp_path/'no.png', tmp_path):
        with pytest.raises(WriteError): change_between(a, b, dst)
    unnamed = write(tmp_path/'unnamed.tif', p, '', scene='s1.tif')
    with pytest.raises(OptionError, match='give dates='): change_series([a, unnamed], tmp_path/'no')
    for wrong in (dict(join_m=-1), dict(min_area_ha=float('nan'))):
        with pytest.raises(OptionError): change_series([a, b], tmp_path/'no', **wrong)
    assert not {'no.tif','no','no.png'} & {*os.listdir(tmp_path)}
    assert not [o for o in os.listdir(tmp_path) if o.startswith('.minec2f')]

def test_a_damaged_map(maps, tmp_path):
    "What is half there is the fault of the file that is read, not of the one that is written"
    whole = maps[1].read_bytes()
    maps[1].write_bytes(whole[:2000])
    with pytest.raises(RasterError, match='m1.tif cannot be read'): change_series(maps, tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_gdal_aligns_a_map(maps, tmp_path):
    "As align=True: the same pixels as rasterio's own warp"
    from rasterio.warp import Resampling, reproject
    where = grid(120, 130, corner=(600203, 7699896))
    with rasterio.open(maps[1]) as f: bands = f.read()
    moved = np.full((2,120,130), 255, np.uint8)
    reproject(bands, moved, src_transform=grid(180, 150).transform, src_crs=UTM, dst_transform=where.transform,
              dst_crs=UTM, src_nodata=255, dst_nodata=255, resampling=Resampling.nearest)
    part = write(tmp_path/'part.tif', np.where(moved[1]==255, 0, moved[1])/250, DAYS[1], where, moved[0]==255)
    back = np.full((2,180,150), 255, np.uint8)
    reproject(moved, back, src_transform=where.transform, src_crs=UTM, dst_transform=grid(180, 150).transform,
              dst_crs=UTM, src_nodata=255, dst_nodata=255, resampling=Resampling.nearest)
    got = read(change_between(maps[0], part, tmp_path/'c.tif', align=True))
    again = np.where(back[1]==255, np.nan, back[1]/250)
    assert (got==by_hand(as_float(maps[0]), again)).all()

def test_a_folder_of_maps(maps, tmp_path):
    (tmp_path/'maps').mkdir()
    for o in maps: o.rename(tmp_path/'maps'/o.name)
    table = change_series(tmp_path/'maps', tmp_path/'out')
    assert table['date'].unique().tolist()==[*DAYS]
    assert len(show_series(table, 2).axes)==2*5

# From an archive

def test_an_area_from_an_archive(tmp_path, plain):
    "The zones' mosaics of two seasons, followed; a truth of each date tells what grew"
    pytest.importorskip('minec2f.mapping')
    import torch
    from minec2f.bands import BandStats
    from minec2f.bundle import Bundle
    from minec2f.inputs import InputSpec
    from minec2f.world.archive import synth_archive
    class Red(torch.nn.Module):
        def forward(self, x): return torch.stack([0*x[:,0], 60*(x[:,0]-.18)], 1)
    bundle = Bundle(Red(), InputSpec(['B04','B08'], BandStats(['B04','B08'], 1, 0., 1.), size=64))
    archive = synth_archive(tmp_path/'archive', 1, scene_size=192, dates=('2021-06-12','2023-05-22'), clouds=(0.,),
                            mines=3, border=False, grown=(.4, 1.))
    with rasterio.open(archive/'truth'/'site00.tif') as f: inside = shapely.box(*f.bounds).buffer(-300)
    area = gpd.GeoSeries([inside], crs=f.crs).to_crs(4326).total_bounds.tolist()
    seasons = ['2021-05-01/2021-08-01', '2023-05-01/2023-08-01']
    found = change.change(bundle, area, archive/'catalog.json', seasons, tmp_path/'out', device='cpu', progress=False)
    (zone, table), = found.items()
    mosaics = [tmp_path/'out'/o.replace('/', '_')/'mosaics'/f'{zone}.vrt' for o in seasons]
    again = change_series(mosaics, tmp_path/'again', dates=[o[:10] for o in seasons], align=True)
    assert zone==str(f.crs.to_epsg()) and len(table)>0
    assert table.drop(columns='geometry').equals(again.drop(columns='geometry'))

# Memory, kills

def test_memory_is_flat(tmp_path, monkeypatch):
    monkeypatch.setattr(change, '_ROWS', 64)
    peaks = []
    for copies in (2, 10):
        p, q = (np.tile(field(k, (64,300), .1, 4), (copies,1)) for k in (20, 21))
        pair = write(tmp_path/'a.tif', p, DAYS[0]), write(tmp_path/'b.tif', q, DAYS[1])
        change_between(*pair, tmp_path/'c.tif')
        tracemalloc.start()
        change_between(*pair, tmp_path/'c.tif')
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1]<1.25*peaks[0], peaks

KILLED = '''
import os, sys
from minec2f import change
from minec2f.change import change_series
step, n = change._step, []
def dying(*args):
    n.append(1)
    if len(n)==2: os.kill(os.getpid(), 9)
    return step(*args)
change._step = dying
change_series(sys.argv[2:], sys.argv[1])
'''

def test_killed_and_run_again(maps, tmp_path):
    "What was there stays; a new run ends with the same bytes as one that nobody killed"
    out, whole = tmp_path/'out', tmp_path/'whole'
    change_series(maps, whole)
    change_series(maps[:2], out)
    before = {o.name: o.read_bytes() for o in out.iterdir()}
    ended = subprocess.run([sys.executable, '-c', KILLED, out, *maps], capture_output=True)
    assert ended.returncode==-signal.SIGKILL
    assert {o.name: o.read_bytes() for o in out.iterdir()}==before
    change_series(maps, out)
    for o in whole.iterdir():
        if o.suffix in ('.tif', '.csv', '.png'): assert (out/o.name).read_bytes()==o.read_bytes(), o.name
