"Hectares from a sample: a published example, another implementation, truth, files of other tools, the notebook."
import json, sqlite3, subprocess, sys
from pathlib import Path

import geopandas as gpd, numpy as np, pandas as pd, pyogrio, pytest, rasterio
from conftest import run_notebook
from rasterio.transform import from_origin
from scipy import ndimage, optimize, stats
from shapely import MultiPoint, Point, box

from minec2f import estimate
from minec2f import strata as strata_module
from minec2f.area import area_estimate, area_paragraph, map_strata, read_design, sample_design, sample_size
from minec2f.core import BandError, CRSError, GridError, MineC2FError, OptionError, RasterError, SampleError, WriteError
from minec2f.raster import Grid, layer_ha, write_raster

UTM = rasterio.CRS.from_epsg(32723)
def grid(h, w, crs=UTM, corner=(600000, 7700000), res=10): return Grid(crs, from_origin(*corner, res, res), h, w)

def write_map(path, cls, where=None, p=None, names=('background','mine')):
    where = where or grid(*cls.shape)
    p = np.where(cls==1, 225, 10) if p is None else p
    bands = np.where(cls==255, 255, np.stack([cls, p])).astype(np.uint8)
    write_raster(path, bands, where, nodata=255, names=['class','probability'])
    with rasterio.open(path, 'r+') as f:
        f.scales = 1, .004
        f.update_tags(1, classes=json.dumps(list(names)))
    return path

def blobs(seed, shape, share, sigma=4):
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return rough>np.quantile(rough, 1-share)

TRUTH = blobs(0, (300,320), .05)
MAPPED = ndimage.binary_dilation(TRUTH & ~blobs(1, TRUTH.shape, .2, 12)) | blobs(2, TRUTH.shape, .005)
CLASSES = np.where(np.arange(300)[:,None]<20, 255, MAPPED.astype(int)) # no data at the top

@pytest.fixture
def mapped(tmp_path): return write_map(tmp_path/'map.tif', CLASSES)

def places(points): return points['id'].str.extract(r'r(\d+)c(\d+)').astype(int).to_numpy()
def seen(points, truth=TRUTH): return np.where(truth[tuple(places(points).T)], 'mine', 'background')

def fill(path, truth=TRUTH):
    "As a GIS: one layer of the file is edited in place"
    points = pyogrio.read_dataframe(path, layer='sample')
    points.assign(reference=seen(points, truth), interpreter='A').to_file(path, layer='sample', engine='pyogrio')
    return path

@pytest.fixture
def sample(mapped, tmp_path):
    sample_design(mapped, 200, tmp_path/'sample.gpkg', rim_m=60, least=40)
    return fill(tmp_path/'sample.gpkg')

# Numbers from elsewhere

def table_of(counts, classes):
    "A row for each point of an error matrix whose strata are the classes of the map"
    at = np.argwhere(counts).repeat(counts[counts>0], axis=0)
    points = pd.DataFrame(np.array(classes, object)[at], columns=['map_class','reference'])
    return points.assign(stratum=points['map_class'])

def test_olofsson_2014():
    "Tables 8 and 9, pages 54 and 55"
    classes = ['deforestation','forest gain','stable forest','stable non-forest']
    points = table_of(np.array([[66,0,5,4], [0,55,8,12], [1,0,153,11], [2,1,9,313]]), classes)
    strata = pd.DataFrame(dict(stratum=classes, area_ha=[200_000, 150_000, 3_200_000, 6_450_000]))
    found = area_estimate(points, strata).table
    row = found.loc[('area_ha','deforestation')]
    assert round(row['estimate'])==235_086 and abs(row['estimate']-row['low']-68_418)<2
    assert np.allclose(found.loc['area_ha','estimate']*.09, [21_158, 11_686, 285_770, 581_386], atol=.6)
    assert np.allclose(1.96*found.loc['area_ha','se']*.09, [6_158, 3_756, 15_510, 16_282], atol=.6)
    assert found.loc[('overall','all'),['estimate','low','high']].round(2).tolist()==[.95, .93, .96]

# Another implementation: each point counts 1/π pixels, and the variance is taken as the paper prints it

def by_hand(stratum, y, x, pixels):
    n = {h: (stratum==h).sum() for h in pixels}
    weight = np.array([pixels[h]/n[h] for h in stratum])
    ratio, variance = (weight*y).sum()/(weight*x).sum(), 0
    for h,size in pixels.items():
        cov = np.cov(y[stratum==h], x[stratum==h])
        spread = cov[0,0] + ratio**2*cov[1,1] - 2*ratio*cov[0,1]
        variance += size**2*(1-n[h]/size)*spread/n[h]
    return ratio, np.sqrt(variance)/(weight*x).sum()

@pytest.mark.parametrize('seed', range(5))
def test_against_another_implementation(seed):
    rng = np.random.default_rng(seed)
    pixels = dict(a=400, b=90, c=3000, d=35)
    points = pd.DataFrame(dict(stratum=rng.choice([*pixels], 150, p=[.3,.2,.35,.15]),
                               map_class=rng.choice(['k','l','m'], 150), reference=rng.choice(['k','l','m'], 150)))
    strata = pd.DataFrame(dict(stratum=[*pixels], pixels=[*pixels.values()], area_ha=np.array([*pixels.values()])*.09))
    found = area_estimate(points, strata)
    h, m, r = (points[o].to_numpy() for o in ('stratum','map_class','reference'))
    one = np.ones(150)
    for k in 'klm':
        both = ((m==k)&(r==k)).astype(float)
        for measure,y,x,unit in (('area_ha', (r==k)*1., one, .09*3525), ('users', both, (m==k)*1., 1),
                                 ('producers', both, (r==k)*1., 1)):
            want = np.array(by_hand(h, y, x, pixels))*unit
            assert np.allclose(found.table.loc[(measure, k), ['estimate','se']].astype(float), want, rtol=1e-12)
    want = by_hand(h, (m==r)*1., one, pixels)
    assert np.allclose(found.table.loc[('overall','all'),['estimate','se']].astype(float), want, rtol=1e-12)
    assert np.isclose(found.matrix.to_numpy().sum(), .09*3525)
    assert np.allclose(found.matrix.sum(), found.table.loc['area_ha','estimate'])

def test_odds_limits_solve_their_equation():
    rng = np.random.default_rng(0)
    z = stats.norm.ppf(.975)
    for _ in range(20):
        k = rng.integers(5, 40, 3)
        points = estimate._Points(np.arange(3).repeat(k), np.ones(k.sum()), rng.uniform(1, 50, 3), np.full(3, np.inf))
        x = rng.random(k.sum())<.5
        y = x & (rng.random(k.sum())<.6)
        low, high = estimate._odds_limits(points, y.astype(float), x.astype(float), z)
        c, c_less, c_more = estimate._parts(points, y.astype(float), z)
        m, m_less, m_more = estimate._parts(points, (x&~y).astype(float), z)
        r = estimate._correlation(points, y.astype(float), (x&~y).astype(float))
        def off(o, dc, dm, sign): return sign*(c-o*m) - np.sqrt(dc**2 + (o*dm)**2 - 2*r*o*dc*dm)
        assert -1<=r<=0 and low<=c/(c+m)<=high
        lowest = optimize.brentq(off, 0, c/m, args=(c_less, m_more, 1))
        assert np.isclose(low, lowest/(1+lowest))
        if m>m_less*(1+1e-9):
            highest = optimize.brentq(off, c/m, 1e6, args=(c_more, m_less, -1))
            assert np.isclose(high, highest/(1+highest))

def test_sample_size_is_what_the_variance_says():
    strata = pd.DataFrame(dict(stratum=['mine','rim','background'], area_ha=[20., 60., 9920.]))
    strata['pixels'] = strata['area_ha']*100
    p = dict(mine=.7, rim=.1, background=.004)
    for allocation in ('neyman','proportional','equal'):
        n = sample_size(strata, 30., p, allocation)
        share = np.array([*p.values()])
        size = strata['area_ha'].to_numpy()
        weights = dict(neyman=size*np.sqrt(share*(1-share)), proportional=size, equal=np.ones(3))[allocation]
        k = n*weights/weights.sum()
        se = np.sqrt((size**2*share*(1-share)*(1/k-1/strata['pixels'])).sum())
        assert np.isclose(1.96*se, 30, rtol=.01)

# Truth

def test_a_census_is_exact(tmp_path):
    "Every pixel looked at: the truth, without an interval"
    truth, mapped = TRUTH[:90,:100], MAPPED[:90,:100]
    assert truth.any() and mapped.any() and (truth!=mapped).any()
    path = write_map(tmp_path/'map.tif', mapped.astype(int))
    points = sample_design(path, 9000, tmp_path/'all.gpkg')
    assert points['id'].nunique()==9000
    found = area_estimate(fill(tmp_path/'all.gpkg')).table
    assert np.allclose(found['se'], 0, atol=1e-9) and np.allclose(found['low'], found['high'])
    assert np.isclose(found.loc[('producers','mine'),'estimate'], mapped[truth].mean(), rtol=1e-4)
    assert np.isclose(found.loc[('overall','all'),'estimate'], (mapped==truth).mean(), rtol=1e-4)
    assert np.isclose(found.loc[('area_ha','mine'),'estimate'], truth.sum()*.01, rtol=1e-3)

def test_pixels_of_unequal_size(tmp_path):
    "A map in degrees from 40 to 70° north, with mines in the north, where pixels are small: hectares are estimated"
    where = grid(300, 100, rasterio.CRS.from_epsg(4326), (20, 70), .1)
    truth = blobs(3, (300,100), .3) & (np.arange(300)[:,None]<150)
    path = write_map(tmp_path/'deg.tif', np.where(blobs(4, truth.shape, .1), ~truth, truth).astype(int), where)
    a_row = layer_ha(gpd.GeoSeries([box(20, 69.9-.1*k, 20.1, 70-.1*k) for k in range(300)], crs=4326))
    true_ha, as_pixels = (truth*a_row[:,None]).sum(), truth.mean()*a_row.sum()*100
    assert as_pixels>1.2*true_ha
    found = []
    for seed in range(16):
        sample_design(path, 300, tmp_path/'s.gpkg', rim_m=0, seed=seed)
        found.append(area_estimate(fill(tmp_path/'s.gpkg', truth)).table.loc[('area_ha','mine')])
        (tmp_path/'s.gpkg').unlink()
    found = pd.DataFrame(found)
    assert abs(found['estimate'].mean()-true_ha)<3*found['estimate'].std()/np.sqrt(16)
    assert .6<found['se'].mean()/found['estimate'].std()<1.6
    assert found['low'].le(true_ha).mul(found['high'].ge(true_ha)).sum()>=13

# Drawing

@pytest.mark.parametrize('side', [17, 64, 1024])
def test_each_pixel_has_its_chance_wherever_windows_end(mapped, tmp_path, monkeypatch, side):
    monkeypatch.setattr(strata_module, '_SIDE', side)
    found = map_strata(mapped, rim_m=60)
    near = ndimage.distance_transform_edt(CLASSES!=1, sampling=10)<=60
    code = np.select([CLASSES==255, CLASSES==1, near], [-1, 1, 2], 0)
    assert found['stratum'].tolist()==['background','mine','rim']
    assert found['pixels'].tolist()==[(code==o).sum() for o in (0, 1, 2)]
    points = sample_design(mapped, 900, tmp_path/'s.gpkg', rim_m=60, allocation='equal')
    row, col = places(points).T
    assert points['id'].is_unique and points['stratum'].value_counts().eq(300).all()
    assert points['stratum'].map(dict(background=0, mine=1, rim=2)).tolist()==code[row,col].tolist()
    assert np.allclose(points.geometry.x, 600005+10*col) and np.allclose(points.geometry.y, 7699995-10*row)
    for name,k in (('background',0), ('rim',2)): # as many in the upper half as there are pixels
        upper = (code[:150]==k).sum()/(code==k).sum()
        got = (row[points['stratum']==name]<150).sum()
        assert stats.binomtest(int(got), 300, upper).pvalue>1e-4

def test_more_points_begin_with_the_first(mapped, tmp_path):
    few = sample_design(mapped, 150, tmp_path/'few.gpkg')
    info = pyogrio.read_info(tmp_path/'few.gpkg', layer='sample')
    assert dict(zip(info['fields'], info['ogr_types']))==dict.fromkeys(few.columns[:-1], 'OFTString')
    fill(tmp_path/'few.gpkg')
    more = sample_design(mapped, 400, tmp_path/'more.gpkg', labels=tmp_path/'few.gpkg')
    assert set(few['id'])=={*more['id'][more['reference'].notna()]}
    with pytest.raises(SampleError, match='labelled point.s. of the earlier sample are not among'):
        sample_design(mapped, 400, tmp_path/'other.gpkg', labels=tmp_path/'few.gpkg', seed=1)
    with pytest.raises(OptionError, match='labelled already'):
        sample_design(mapped, 149, tmp_path/'other.gpkg', labels=tmp_path/'few.gpkg')
    for n in range(151, 160): # rounding takes no point away
        sample_design(mapped, n, tmp_path/'other.gpkg', labels=tmp_path/'few.gpkg')
        (tmp_path/'other.gpkg').unlink()
    with pytest.raises(WriteError, match='holds 150 labelled points'): sample_design(mapped, 400, tmp_path/'few.gpkg')

def test_strata_by_probability_and_by_a_raster(mapped, tmp_path):
    p = np.clip(250*ndimage.gaussian_filter(MAPPED.astype(float), 2), 0, 250).round()
    path = write_map(tmp_path/'p.tif', CLASSES, p=p)
    unsure = map_strata(path, dict(unsure=(.2, .8)), 0)
    known = CLASSES<255
    assert dict(zip(unsure['stratum'], unsure['pixels']))['unsure']==((p>=50)&(p<=200)&known).sum()
    sample_design(path, 300, tmp_path/'u.gpkg', dict(unsure=(.2, .8)), 0)
    found = area_estimate(fill(tmp_path/'u.gpkg'), interval='wilson').table
    assert found.loc[('area_ha','mine'),'low']<(TRUTH&known).sum()*.01<found.loc[('area_ha','mine'),'high']

    half = np.where(np.arange(320)<100, 3, 7)*np.ones((300,1), np.uint8)
    write_raster(tmp_path/'zones.tif', half.astype(np.uint8), grid(300, 320), nodata=255)
    zones = map_strata(path, tmp_path/'zones.tif')
    assert zones['stratum'].tolist()==['3','7'] and zones['pixels'].tolist()==[28000, 61600]
    sample_design(path, 300, tmp_path/'z.gpkg', tmp_path/'zones.tif', allocation='proportional')
    assert area_estimate(fill(tmp_path/'z.gpkg')).strata['points'].tolist()==[94, 206]
    write_raster(tmp_path/'small.tif', half[:99].astype(np.uint8), grid(99, 320))
    with pytest.raises(GridError, match='the map and the raster of strata differ'):
        map_strata(path, tmp_path/'small.tif')
    with pytest.raises(BandError, match='no band called probability'):
        map_strata(tmp_path/'zones.tif', dict(unsure=(.2,.8)))

def test_maps_of_other_tools(tmp_path):
    "One band of another type, no names, several classes, no mine at all; what is no map is refused"
    several = np.where(MAPPED, 1+(np.arange(320)>160), 0).astype(np.int16)
    several[:20] = -9999
    write_raster(tmp_path/'i16.tif', several, grid(300, 320), nodata=-9999)
    points = sample_design(tmp_path/'i16.tif', 200, tmp_path/'s.gpkg')
    assert {*points['stratum']}=={'background','mine','2','rim'}
    assert read_design(tmp_path/'s.gpkg').facts['classes']==['background','mine','2']
    write_map(tmp_path/'none.tif', np.zeros((64,64), int))
    assert map_strata(tmp_path/'none.tif')['stratum'].tolist()==['background']
    for name,x,said in (('f.tif', several.astype(np.float32), 'float32'), ('high.tif', several+300, 'holds 30'),
                        ('two.tif', np.stack([several, several]), 'none of which is called class'),
                        ('void.tif', np.full((64,64), -9999, np.int16), 'no valid pixel')):
        x = np.where(x==-9699, -9999, x).astype(x.dtype)
        write_raster(tmp_path/name, x, grid(*x.shape[-2:]), nodata=-9999)
        with pytest.raises(RasterError, match=said): map_strata(tmp_path/name)
    write_raster(tmp_path/'nowhere.tif', several, Grid(None, from_origin(0,0,1,1), 300, 320))
    with pytest.raises(CRSError): map_strata(tmp_path/'nowhere.tif')
    write_map(tmp_path/'rim.tif', CLASSES, names=('background','rim'))
    with pytest.raises(RasterError, match='none of them rim'): map_strata(tmp_path/'rim.tif')
    write_raster(tmp_path/'zones.tif', np.full((300,320), 1.5, np.float32), grid(300, 320))
    with pytest.raises(RasterError, match='float32'): map_strata(tmp_path/'i16.tif', tmp_path/'zones.tif')

ODD = [dict(n=0), dict(n=2.5), dict(n=10**9), dict(allocation='best'), dict(least=-1), dict(seed=-1),
       dict(rim_m=np.nan), dict(strata='x'), dict(expected=dict(mine=2)), dict(expected=dict(x=.5)),
       dict(expected=[.5]), dict(strata=dict(u=('a','b'))), dict(dst=None)]

@pytest.mark.parametrize('odd', ODD)
def test_odd_options(mapped, tmp_path, odd):
    with pytest.raises(MineC2FError): sample_design(mapped, **({'n': 100, 'dst': tmp_path/'s.gpkg'} | odd))
    assert [o.name for o in tmp_path.iterdir()]==['map.tif']

# What becomes of a sample in other hands

def resaved(sample, path, change=lambda o: o, **kw):
    change(pyogrio.read_dataframe(sample, layer='sample')).to_file(path, **kw)
    return path

SAVED = {
    'points.gpkg': {}, 'points.shp': {}, 'points.fgb': {}, 'points.geojson': {},
    'wgs.gpkg': dict(change=lambda o: o.to_crs(4326)),
    'mercator.gpkg': dict(change=lambda o: o.to_crs(3857), layer='mine'),
    'turned.gpkg': dict(change=lambda o: o.iloc[::-1][[*o.columns[::-1]]]),
    'upper.gpkg': dict(change=lambda o: o.rename(columns=str.upper).set_geometry('GEOMETRY')),
    'multi.gpkg': dict(change=lambda o: o.set_geometry(o.geometry.map(lambda p: MultiPoint([p]))))}

@pytest.mark.parametrize('name', SAVED)
def test_saved_by_another_program(sample, tmp_path, name):
    want = area_estimate(sample)
    other = resaved(sample, tmp_path/name, **SAVED[name])
    found = area_estimate(other, strata=sample)
    pd.testing.assert_frame_equal(found.table, want.table)
    with pytest.raises(SampleError, match='give the file that sample_design wrote, too: strata='): area_estimate(other)

@pytest.mark.parametrize('how', [dict(sep=';', encoding='utf-16'), dict(sep='\t'), dict(index=True)])
def test_saved_as_a_table(sample, tmp_path, how):
    points = pyogrio.read_dataframe(sample, layer='sample', read_geometry=False)
    points['reference'] = (points['reference']=='mine').astype(float)  # an interpreter who types 1 and 0
    points.to_csv(tmp_path/'points.csv', **({'index': False} | how))
    found = area_estimate(tmp_path/'points.csv', strata=sample)
    pd.testing.assert_frame_equal(found.table, area_estimate(sample).table)

CHANGES = {
    'missing': lambda o: o[3:],
    'twice': lambda o: pd.concat([o, o[:1]]),
    'moved': lambda o: o.set_geometry(o.translate(6, 0)),
    'that nobody drew': lambda o: pd.concat([o, o[:1].assign(id='new')]),
    'with another stratum': lambda o: o.assign(stratum='rim'),
    'with another map_class': lambda o: o.assign(map_class='mine'),
    'id is missing': lambda o: o.drop(columns='id'),
    'reference is missing': lambda o: o.drop(columns='reference'),
    'have no reference': lambda o: o.assign(reference=o['reference'].where(o.index>4)),
    'reference holds forest': lambda o: o.assign(reference='forest')}

@pytest.mark.parametrize('said', CHANGES)
def test_what_is_no_probability_sample_any_more(sample, tmp_path, said):
    other = resaved(sample, tmp_path/'x.gpkg', CHANGES[said])
    with pytest.raises(SampleError, match=said): area_estimate(other, sample)
    changed = CHANGES[said](pyogrio.read_dataframe(sample, layer='sample'))
    changed.to_file(sample, layer='sample', engine='pyogrio')  # in place, as QGIS does
    with pytest.raises(SampleError, match=said): area_estimate(sample)

def test_no_sample_is_drawn_that_says_nothing(mapped, tmp_path):
    "An estimate takes two points of each stratum: with fewer, days of interpretation would be lost"
    with pytest.raises(OptionError, match='at least two points for each of 3 strata'):
        sample_design(mapped, 5, tmp_path/'s.gpkg')
    for allocation in ('neyman', 'proportional', 'equal'):
        sample_design(mapped, 6, tmp_path/f'{allocation}.gpkg', allocation=allocation, least=0)
        found = area_estimate(fill(tmp_path/f'{allocation}.gpkg'))
        assert found.strata['points'].tolist()==[2, 2, 2]

def test_points_without_a_place(sample, tmp_path):
    def at_first(o, place): return o.set_geometry(gpd.GeoSeries([place, *o.geometry[1:]], o.index, o.crs))
    for place in (None, Point()):
        other = resaved(sample, tmp_path/'x.gpkg', lambda o, place=place: at_first(o, place))
        with pytest.raises(SampleError, match='1 point.s. moved'): area_estimate(other, sample)

@pytest.mark.parametrize('west', [179.995, 359.995])
def test_a_turn_around_the_earth_moves_no_point(tmp_path, west):
    "Programs write longitudes from -180 to 180, whatever the map has"
    write_map(tmp_path/'map.tif', CLASSES, grid(*CLASSES.shape, rasterio.CRS.from_epsg(4326), (west, 10), 1e-4))
    sample_design(tmp_path/'map.tif', 100, tmp_path/'s.gpkg')
    want = area_estimate(fill(tmp_path/'s.gpkg')).table
    resaved(tmp_path/'s.gpkg', tmp_path/'x.geojson', RFC7946='YES')
    resaved(tmp_path/'s.gpkg', tmp_path/'x.gpkg', lambda o: o.to_crs(3857))
    for other in ('x.geojson', 'x.gpkg'):
        pd.testing.assert_frame_equal(area_estimate(tmp_path/other, tmp_path/'s.gpkg').table, want)

def test_two_layers_of_points_are_not_chosen_from(sample, tmp_path):
    for layer in ('mine', 'yours'): resaved(sample, tmp_path/'x.gpkg', layer=layer, engine='pyogrio')
    with pytest.raises(SampleError, match='has the layers mine, yours'): area_estimate(tmp_path/'x.gpkg', sample)
    points = pyogrio.read_dataframe(sample, layer='sample')
    styles = pd.DataFrame(dict(styleName=['red dots']))  # as QGIS keeps them
    points.to_file(tmp_path/'q.gpkg', layer='points', engine='pyogrio')
    pyogrio.write_dataframe(styles, tmp_path/'q.gpkg', layer='layer_styles', driver='GPKG', append=True)
    assert area_estimate(tmp_path/'q.gpkg', sample).table.equals(area_estimate(sample).table)

OTHERS = {
    'labels in capitals': lambda o, path: o.rename(columns=dict(reference='REFERENCE')).to_file(path, layer='sample'),
    'another layer': lambda o, path: o.to_file(path, layer='labelled'),
    'somebody\'s roads': lambda o, path: o[['geometry']].to_file(path, layer='roads'),
    'a text': lambda o, path: path.write_text('notes')}

@pytest.mark.parametrize('what', OTHERS)
def test_only_what_was_drawn_is_replaced(sample, mapped, tmp_path, what):
    points = pyogrio.read_dataframe(sample, layer='sample')
    sample_design(mapped, 100, tmp_path/'drawn.gpkg')
    sample_design(mapped, 120, tmp_path/'drawn.gpkg')  # without labels: drawn once more
    for path in (tmp_path/'drawn.gpkg', tmp_path/'other.gpkg'):
        OTHERS[what](points, path)
        before = path.read_bytes()
        with pytest.raises(WriteError, match='another name'): sample_design(mapped, 100, path)
        assert path.read_bytes()==before

def test_earlier_labels_from_other_programs(sample, mapped, tmp_path):
    points = pyogrio.read_dataframe(sample, layer='sample')
    upper = resaved(sample, tmp_path/'u.gpkg', lambda o: o.rename(columns=dict(reference='REFERENCE', id='ID')))
    for earlier in (upper, points):
        more = sample_design(mapped, 260, tmp_path/'more.gpkg', rim_m=60, least=40, labels=earlier)
        assert (more['reference']!='').sum()-more['reference'].isna().sum()==200
        (tmp_path/'more.gpkg').unlink()
    doubtful = pd.concat([points, points[:1].assign(reference='background')])
    with pytest.raises(SampleError, match='one point twice'):
        sample_design(mapped, 260, tmp_path/'more.gpkg', rim_m=60, least=40, labels=doubtful)

DAMAGES = ["update design set design='{\"classes\":5,\"crs\":\"EPSG:32723\",\"pixel\":[1,1]}'",
           "update design set design='{\"classes\":[\"a\"],\"crs\":\"x\",\"pixel\":[1,1]}'",
           "update design set design='{\"classes\":[\"a\"],\"crs\":\"EPSG:32723\",\"pixel\":\"a\"}'",
           'update drawn set pixel_ha=0', 'update strata set pixels=0', 'alter table strata drop column points']

@pytest.mark.parametrize('damage', DAMAGES)
def test_a_design_that_somebody_edited(sample, damage):
    with sqlite3.connect(sample) as db: db.execute(damage)
    with pytest.raises(SampleError, match='damaged|above 0|points is missing'): area_estimate(sample)

@pytest.mark.parametrize('change', [dict(pixels='many'), dict(pixels=0), dict(pixels=-1), dict(area_ha='1,000')])
def test_tables_of_strata_that_cannot_be(sample, change):
    points, strata = pyogrio.read_dataframe(sample, layer='sample'), read_design(sample).strata
    with pytest.raises(SampleError, match='above 0'): area_estimate(points, strata.assign(**change))
    endless = area_estimate(points, strata.assign(pixels=np.nan)).table  # not known, as where the column is missing
    pd.testing.assert_frame_equal(endless, area_estimate(points, strata.drop(columns='pixels')).table)
    assert sample_size(strata.rename(columns=str.upper), 5)==sample_size(strata, 5)
    for odd in ('x', pd.DataFrame(dict(a=[1]))):
        with pytest.raises(SampleError): sample_size(odd, 5)

def test_what_is_no_sample(sample):
    for odd in (None, 3, ['x']):
        with pytest.raises(SampleError): area_estimate(odd)
    with pytest.raises(SampleError): area_estimate(sample, dict(stratum=['a']))
    points = pyogrio.read_dataframe(sample, layer='sample')
    with pytest.raises(SampleError, match='reference holds inf'): area_estimate(points.assign(reference=np.inf), sample)

NAMES = [['a','A'], ['', 'mine'], [None, None], ['2','mine'], ['rim','mine']]

@pytest.mark.parametrize('names', NAMES)
def test_names_that_no_label_can_tell_apart(tmp_path, names):
    write_map(tmp_path/'map.tif', np.where(CLASSES==1, 2, CLASSES), names=names)
    with pytest.raises(RasterError, match='calls its classes|strata called'): map_strata(tmp_path/'map.tif')

def test_a_map_of_0_and_255_is_warned_of(tmp_path):
    write_raster(tmp_path/'map.tif', (255*MAPPED).astype(np.uint8), grid(*MAPPED.shape))
    with pytest.warns(UserWarning, match='nothing but background.*recode 255 to 1'): map_strata(tmp_path/'map.tif')

def test_samples_from_elsewhere():
    points = table_of(np.array([[8,2], [1,30]]), ['mine','other'])
    strata = pd.DataFrame(dict(stratum=['mine','other'], area_ha=[100., 900.]))
    assert np.isclose(area_estimate(points, strata).table.loc[('area_ha','mine'),'estimate'], 80+900/31)
    for odd,said in ((points[:11], "stratum 'other' .* has 1 point"), (points[:10], "'other' .* has 0 point"),
                     (points.assign(stratum='third'), 'points lie in third'),
                     (points[['stratum']], 'map_class is missing, reference is missing')):
        with pytest.raises(SampleError, match=said): area_estimate(odd, strata)
    for odd in (strata.assign(area_ha=[0, 1]), strata.assign(stratum='a'), strata.assign(area_ha=['x', 1])):
        with pytest.raises(SampleError, match='above 0'): area_estimate(points, odd)
    few = strata.assign(pixels=[5, 900])
    with pytest.raises(SampleError, match='has 10 points in 5 pixels'): area_estimate(points, few)
    with pytest.raises(SampleError, match='does not say how they were drawn'): area_estimate(points)
    with pytest.raises(OptionError, match='interval'): area_estimate(points, strata, interval='exact')

@pytest.mark.parametrize('interval', ['normal','wilson'])
def test_a_class_nobody_saw(interval):
    "On the ground there is none: its producer's accuracy is not known, and the text says so"
    points = table_of(np.array([[30,0], [9,0]]), ['background','mine'])
    strata = pd.DataFrame(dict(stratum=['background','mine'], area_ha=[900., 100.]))
    found = area_estimate(points, strata, interval=interval)
    assert found.table.loc[('producers','mine')].isna().all()
    assert (found.table.loc[('area_ha','mine'),'high']>0)==(interval=='wilson')
    said = area_paragraph(found)
    assert "producer's accuracy of mine not known" in said and ('Caution' in said)==(interval=='normal')

def test_another_map(sample, mapped, tmp_path):
    assert area_estimate(sample, map_path=mapped)
    write_map(mapped, 1-MAPPED.astype(int))
    with pytest.raises(SampleError, match='drawn from map.tif, and .* is another'):
        area_estimate(sample, map_path=mapped)
    with pytest.raises(RasterError, match='does not exist'): area_estimate(sample, map_path=tmp_path/'none.tif')

def test_damaged_files(sample, tmp_path):
    raw = sample.read_bytes()
    for k,bad in enumerate((raw[:3000], b'', b'no database', raw[:-40_000])):
        (tmp_path/f'{k}.gpkg').write_bytes(bad)
        with pytest.raises(SampleError): area_estimate(tmp_path/f'{k}.gpkg')
    with pytest.raises(SampleError, match='does not exist'): area_estimate(tmp_path/'none.gpkg')

def test_failure_half_way_leaves_the_earlier_file(mapped, tmp_path, monkeypatch):
    out = tmp_path/'out'/'s.gpkg'
    sample_design(mapped, 100, out)
    before = out.read_bytes()
    def failing(*args, **kw): raise OSError('no space left on device')
    monkeypatch.setattr(pyogrio, 'write_dataframe', failing)
    with pytest.raises(WriteError, match='no space left'): sample_design(mapped, 200, out)
    assert [o.name for o in out.parent.iterdir()]==['s.gpkg'] and out.read_bytes()==before

LARGE = '''
import sys
from minec2f.area import sample_design
def peak(): return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/1024
sample_design(sys.argv[1]+'/map.tif', 50, sys.argv[1]+'/warm.gpkg')
before = peak()
sample_design(sys.argv[1]+'/large.tif', 500, sys.argv[1]+'/large.gpkg')
print(peak()-before)
'''

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak of memory is read from /proc')
def test_large_map_does_not_enter_memory(mapped, tmp_path):
    "64 million pixels in two bands: the process grows by GDAL's cache of 128 MB and little more"
    profile = dict(driver='GTiff', count=2, dtype='uint8', height=8000, width=8000, nodata=255, crs=UTM, sparse_ok=True,
                   transform=grid(1,1).transform, tiled=True, blockxsize=512, blockysize=512, compress='deflate')
    with rasterio.open(tmp_path/'large.tif', 'w', **profile) as f:
        f.descriptions = 'class', 'probability'
        for k in (0, 3000, 7000): f.write(np.stack([CLASSES, CLASSES]).astype(np.uint8), window=((k,k+300),(k,k+320)))
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', LARGE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert float(done.stdout)<200
    assert len(pyogrio.read_dataframe(tmp_path/'large.gpkg', layer='sample'))==500

# The notebook

def run(repo, monkeypatch, tmp_path, **parameters):
    return run_notebook(repo, monkeypatch, 'table_area', tmp_path/'run.ipynb', **parameters)

def test_from_a_map_to_a_paragraph(repo, mapped, tmp_path, monkeypatch):
    out = tmp_path/'out'
    how = dict(map_path=str(mapped), out=str(out), n=250, rim_m=60, interval='wilson', imagery='aerial images')
    assert '250 points drawn' in run(repo, monkeypatch, tmp_path, **how)
    assert [o.name for o in out.iterdir()]==['sample.gpkg']
    fill(out/'sample.gpkg')
    said = run(repo, monkeypatch, tmp_path, **how)
    assert 'The area of mine is estimated at' in said and 'by A (250) on aerial images' in said
    assert sorted(o.name for o in out.iterdir())==['area.csv','area.txt','matrix.csv','sample.gpkg']
    table = pd.read_csv(out/'area.csv').set_index(['measure','class'])
    low, high = table.loc[('area_ha','mine'), ['low','high']]
    assert low<(TRUTH&(CLASSES<255)).sum()*.01<high
