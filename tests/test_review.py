"Windows to correct, and what strangers make of the file: other tools write and read it, and hold what comes of it."
import hashlib, json, sqlite3, warnings
from pathlib import Path

import geopandas as gpd, numpy as np, pandas as pd, pyogrio, pytest, rasterio, shapely
from pyproj import Geod
from rasterio.transform import from_origin
from scipy import ndimage

from minec2f import corrections
from minec2f.chips import load_index, read_sample
from minec2f.core import (BandError, CRSError, DatasetError, GridError, MineC2FError, OptionError, PolygonError,
                          RasterError, SplitError, WriteError)
from minec2f.corrections import accept
from minec2f.raster import Grid, write_raster
from minec2f.review import review
from minec2f.splits import assert_no_leak, is_near

SIDE, SIZE = 320, 64

def grid(epsg=32723, x=600000, y=7700000, side=SIDE, res=10):
    return Grid(rasterio.CRS.from_epsg(epsg), from_origin(x, y, res, res), side, side)

def blobs(seed, share, side=SIDE):
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side,side)), 4)
    return rough>np.quantile(rough, 1-share)

def write_scene(path, where, seed=0, dtype=np.uint16, bands=('B04','B08'), **how):
    x = np.random.default_rng(seed).integers(1, 200, (len(bands), *where.shape)).astype(dtype)
    x[:, :20, :20] = 0 # no data in a corner
    write_raster(path, x, where, nodata=0, names=bands, **how)
    return path

def write_map(path, scene, where, seed=0, kind='disagreement', names=('background','mine'), cls=None):
    rng = np.random.default_rng(seed)
    cls = blobs(seed, .1).astype(np.uint8) if cls is None else cls
    bands = np.stack([cls, 10+200*(cls>0), rng.integers(0, 100, where.shape)]).astype(np.uint8)
    bands[:, :20, :20] = 255
    if kind!='disagreement': bands = bands[:2]
    write_raster(path, bands, where, nodata=255, names=['class','probability','uncertainty'][:len(bands)])
    with rasterio.open(path, 'r+') as f:
        f.update_tags(scene=Path(scene).name, uncertainty=kind)
        f.update_tags(1, classes=json.dumps(list(names)))
    return path

@pytest.fixture
def scene(tmp_path): return write_scene(tmp_path/'scene.tif', grid())
@pytest.fixture
def mapped(tmp_path, scene): return write_map(tmp_path/'map.tif', scene, grid())

@pytest.fixture
def data(tmp_path):
    "Twelve fine chips, the nearest of them 50 km from the scene"
    folder = tmp_path/'data'
    rows = []
    for k in range(12):
        where = grid(x=650000+20000*k, side=SIZE)
        write_scene(folder/f'images/f{k}.tif', where, k)
        write_raster(folder/f'masks/f{k}.tif', blobs(k, .2, SIZE).astype(np.uint8), where)
        rows.append(dict(id=f'f{k}', site=f's{k}', domain='fine', split=['train','train','valid','test'][k%4], note=k))
    pd.DataFrame(rows).to_csv(folder/'index.csv', index=False)
    return folder

def layer(path, name): return pyogrio.read_dataframe(path, layer=name)
def put(path, name, table): table.to_file(path, layer=name, engine='pyogrio')
def set_status(path, **of): # As a GIS: the layer is edited in place
    windows = layer(path, 'windows')
    windows['status'] = windows['window'].map(of).fillna('open')
    put(path, 'windows', windows)
    return path

def drawn(path): return layer(path, 'drawn').set_index('window')
def part(path, row, band=1):
    with rasterio.open(path) as src: return src.read(band)[row.row0:row.row1, row.col0:row.col1]
def made(folder, report):
    "Window -> (pixels, label, valid) of the chips that were made"
    chips = load_index(folder).set_index('id')
    taken = report[report['outcome']=='accepted']
    return {w: read_sample(chips.loc[i]) for w,i in zip(taken['window'], taken['id'])}

def hashes(folder): return {o: hashlib.sha256(o.read_bytes()).digest() for o in folder.rglob('*') if o.is_file()}

# Which windows

def means(path, number, f):
    with rasterio.open(path) as src: x, known = src.read(number), src.read(1)!=255
    found = {}
    for r in range(0, SIDE, SIZE):
        for c in range(0, SIDE, SIZE):
            inside = np.s_[r:r+SIZE, c:c+SIZE]
            found[r,c] = f(x[inside][known[inside]]/250).mean()
    return found

def entropy(p): return -(p*np.log2(p)+(1-p)*np.log2(1-p))

@pytest.mark.parametrize('by, band, f', [('disagreement', 3, lambda x: x), ('entropy', 2, entropy)])
def test_the_best_that_do_not_touch(mapped, scene, tmp_path, by, band, f):
    review(mapped, scene, 5, tmp_path/'r.gpkg', by, size=SIZE)
    rows, scores = drawn(tmp_path/'r.gpkg'), means(mapped, band, f)
    found = [(o.row0, o.col0) for o in rows.itertuples()]
    left, expected = sorted(scores, key=lambda o: -scores[o]), []
    while len(expected)<5: # by hand: the best, then the best that does not touch it along a side, …
        expected.append(left[0])
        left = [o for o in left if max(abs(o[0]-left[0][0]), abs(o[1]-left[0][1]))>SIZE or
                (abs(o[0]-left[0][0])==SIZE and abs(o[1]-left[0][1])==SIZE and o in found)]
    assert found==expected and np.allclose(rows['score'], [scores[o] for o in found])

def test_apart_is_meant_on_the_ground(mapped, scene, tmp_path):
    windows = review(mapped, scene, 3, tmp_path/'r.gpkg', size=32, apart_km=1)
    at = windows.centroid.to_crs(4326)
    gaps = [Geod(ellps='WGS84').inv(a.x, a.y, b.x, b.y)[2] for i,a in enumerate(at) for b in at[:i]]
    assert min(gaps)>=1000+320*.99 # from the middle of one to that of the other

def test_seeds(mapped, scene, tmp_path):
    chosen = [review(mapped, scene, 4, tmp_path/f'{k}.gpkg', 'random', size=32, seed=seed)
              for k,seed in enumerate((1, 1, 2))]
    a, b, c = (o.geometry.to_wkt().tolist() for o in chosen)
    assert a==b and a!=c

def test_windows_near_what_is_measured_on_are_not_offered(mapped, scene, tmp_path, data):
    index = load_index(data)
    near = index.assign(lon=index['lon'].where(index['split']!='test', -44.05), lat=-20.79)
    with pytest.raises(OptionError, match='0 of 0 lie'):
        review(mapped, scene, 2, tmp_path/'r.gpkg', size=SIZE, index=near)
    assert not (tmp_path/'r.gpkg').exists()
    review(mapped, scene, 2, tmp_path/'r.gpkg', size=SIZE, index=index)

def test_a_map_of_one_model(tmp_path, scene):
    one = write_map(tmp_path/'one.tif', scene, grid(), kind='none')
    with pytest.raises(BandError, match='Map the scene with several'): review(one, scene, 2, tmp_path/'r.gpkg')
    with pytest.raises(OptionError, match="by 'doubt' is not known; known are disagreement"):
        review(one, scene, 2, tmp_path/'r.gpkg', 'doubt')
    with pytest.raises(OptionError, match='needs bundles'): review(one, scene, 2, tmp_path/'r.gpkg', 'distance')
    review(one, scene, 2, tmp_path/'r.gpkg', 'entropy', size=SIZE)

def test_maps_that_do_not_fit(tmp_path, scene, mapped):
    (tmp_path/'x').mkdir()
    other = write_scene(tmp_path/'x'/'scene.tif', grid(x=600010))
    with pytest.raises(GridError): review(mapped, other, 2, tmp_path/'r.gpkg')
    with pytest.raises(RasterError, match='as predict_scene writes it'): review(scene, scene, 2, tmp_path/'r.gpkg')
    with pytest.raises(RasterError, match='same name'): review(mapped, [scene, other], 2, tmp_path/'r.gpkg')
    three = write_map(tmp_path/'three.tif', scene, grid(), names=('background','pit','pond'))
    with pytest.raises(OptionError, match='different classes'): review([mapped, three], scene, 2, tmp_path/'r.gpkg')
    with pytest.raises(OptionError): review(mapped, scene, 2, tmp_path/'r.gpkg', size=31)
    with pytest.raises(OptionError, match='Lower n'): review(mapped, scene, 99, tmp_path/'r.gpkg', size=SIZE)

def test_a_map_without_data(tmp_path, scene, data):
    empty = write_map(tmp_path/'empty.tif', scene, grid(), cls=np.full((SIDE,SIDE), 255, np.uint8))
    with pytest.raises(OptionError, match='0 of 0 lie'):
        review(empty, scene, 2, tmp_path/'r.gpkg', size=SIZE, index=load_index(data))

# The file

def test_what_the_file_says_of_itself(mapped, scene, tmp_path):
    path = tmp_path/'r.gpkg'
    review(mapped, scene, 3, path, size=SIZE)
    assert pyogrio.list_layers(path)[:2].tolist()==[['windows','MultiPolygon'], ['outlines','MultiPolygon']]
    with sqlite3.connect(path) as db:
        about = dict(db.execute('SELECT column_name, description FROM gpkg_data_columns WHERE table_name="windows"'))
        states = {o for o, in db.execute('SELECT value FROM gpkg_data_column_constraints')}
        assert not db.execute('PRAGMA foreign_key_check').fetchall()
    assert {'status','rank','why','todo','window'}<=set(about) and states=={'open','done','skip'}
    facts = json.loads(layer(path, 'design')['design'][0])
    assert facts['maps'][0]['map_sha256']==hashlib.sha256(mapped.read_bytes()).hexdigest()
    with pytest.raises(WriteError, match='somebody may have worked in it'): review(mapped, scene, 3, path, size=SIZE)

def test_outlines_are_the_map(mapped, scene, tmp_path):
    review(mapped, scene, 3, tmp_path/'r.gpkg', size=SIZE)
    outlines = layer(tmp_path/'r.gpkg', 'outlines')
    for name,row in drawn(tmp_path/'r.gpkg').iterrows():
        assert np.isclose(outlines[outlines['window']==name].area.sum(), (part(mapped, row)==1).sum()*100)

# From the file to chips

def test_untouched_outlines_give_the_map_back(mapped, scene, tmp_path, data):
    before = hashes(data)
    path = tmp_path/'r.gpkg'
    review(mapped, scene, 6, path, size=SIZE, index=load_index(data))
    report = accept(set_status(path, w001='done', w003=' DONE', w004='skip'), data, scene, tmp_path/'new')
    assert dict(zip(report['window'], report['outcome']))==dict(
        w001='accepted', w002='open', w003='accepted', w004='skipped', w005='open', w006='open')
    for name,(x, y, valid) in made(tmp_path/'new', report).items():
        row = drawn(path).loc[name]
        assert (y[valid]==part(mapped, row)[valid]).all() and (y[~valid]==255).all()
        assert (x[0]==part(scene, row)).all() and (x[1]==part(scene, row, 2)).all()
        assert (valid==(part(scene, row)>0)).all()
    new = load_index(tmp_path/'new')
    assert_no_leak(new)
    assert hashes(data)==before and new['note'].notna().sum()==12
    last = new.iloc[-1]
    assert last['review_sha256']==hashlib.sha256(path.read_bytes()).hexdigest() and last['split']=='train'
    assert (tmp_path/'new'/'reviews'/f"{last['review_sha256'][:16]}.gpkg").read_bytes()==path.read_bytes()

def test_what_a_gis_makes_of_it(mapped, scene, tmp_path, data):
    "Another CRS, polygons across a frame, one that crosses itself, one with a hole, points; and half a window"
    path = tmp_path/'r.gpkg'
    windows = review(mapped, scene, 3, path, size=SIZE).to_crs(32723)
    frame = {o.window: o.geometry for o in windows.itertuples()}
    west, south, east, north = frame['w001'].bounds
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    ring = frame['w002'].buffer(-100).difference(frame['w002'].buffer(-250))
    across = shapely.box(*frame['w003'].bounds).buffer(5000)
    outlines = gpd.GeoDataFrame(dict(CLASS=['mine', None, ' Mine', 'mine', None]), crs=32723,
                                geometry=[bow, ring, across, shapely.Point(west, south), None])
    put(path, 'outlines', outlines.to_crs(3857))
    west, south, east, north = frame['w003'].bounds
    half = windows[windows['window']=='w003'].copy()
    half['geometry'] = [shapely.box(west, south, (west+east)/2, north)]
    rest = half.assign(status='open', geometry=[shapely.box((west+east)/2, south, east, north)])
    windows = pd.concat([windows[windows['window']!='w003'].assign(status='done'), half.assign(status='done'), rest])
    put(path, 'windows', windows.to_crs(4326))
    with pytest.warns(UserWarning, match='invalid or no polygons') as said:
        report = accept(path, data, scene, tmp_path/'new')
    assert not any('lie in no window' in str(o.message) for o in said)
    chips = {w: y for w,(_, y, _) in made(tmp_path/'new', report).items()}
    assert chips['w003'][:, :32].max()==255 or (chips['w003'][:, :32]==1).all()
    assert (chips['w003'][:, 32:]==255).all()
    for name,shape in dict(w001=shapely.make_valid(bow), w002=ring).items():
        centre = np.arange(SIZE)*10+5
        x, y = np.meshgrid(frame[name].bounds[0]+centre, frame[name].bounds[3]-centre)
        expected = shapely.contains_xy(shape.union(across), x, y)
        known = chips[name]!=255
        assert ((chips[name]==1)[known]==expected[known]).mean()>.999
    assert report.set_index('window').loc['w003','known']<.51

def test_a_frame_that_was_moved_or_deleted(mapped, scene, tmp_path, data):
    path = tmp_path/'r.gpkg'
    review(mapped, scene, 4, path, size=SIZE)
    windows = layer(path, 'windows').assign(status='done')
    windows.loc[0, 'geometry'] = shapely.affinity.translate(windows.geometry[0], 1e5)
    windows.loc[1, 'geometry'] = None
    extra = windows.iloc[[2]].assign(window='mine')
    put(path, 'windows', pd.concat([windows[windows['window']!='w004'], extra]))
    with pytest.warns(UserWarning, match='nobody chose the window'): report = accept(path, data, scene, tmp_path/'new')
    said = dict(zip(report['window'], report['outcome']))
    assert said==dict(w001='its frame was moved away, or shows no data', w002='its frame holds nothing',
                      w003='accepted', w004='deleted')

def spoil(path, how):
    windows, outlines = layer(path, 'windows').assign(status='done'), layer(path, 'outlines')
    if how=='status': put(path, 'windows', windows.assign(status=['done','ready','done']))
    if how=='column': put(path, 'windows', windows.drop(columns='status'))
    if how=='nowhere': put(path, 'outlines', outlines.set_crs(None, allow_override=True))
    if how=='class': put(path, 'outlines', outlines.assign(**{'class': 'forest'}))
    if how=='layer':
        with sqlite3.connect(path) as db: db.execute('DELETE FROM gpkg_contents WHERE table_name="outlines"')
    if how=='design':
        with sqlite3.connect(path) as db: db.execute("UPDATE design SET design='{'")
    if how=='cut': path.write_bytes(path.read_bytes()[:5000])
    if how=='open': put(path, 'windows', windows.assign(status='open'))

@pytest.mark.parametrize('how, error, says', [
    ('status', PolygonError, 'status holds ready; open, done, skip are known'),
    ('column', PolygonError, 'its layer windows has no status'),
    ('nowhere', CRSError, 'its layer outlines has no CRS'),
    ('class', PolygonError, 'class holds forest; background, mine are known'),
    ('layer', PolygonError, "no layer 'outlines'"),
    ('design', PolygonError, 'its table design is damaged'),
    ('cut', PolygonError, 'r.gpkg'),
    ('open', DatasetError, 'no window can be used .3 open.')])
def test_what_cannot_be_read_is_named_and_leaves_nothing(mapped, scene, tmp_path, data, how, error, says):
    path = tmp_path/'r.gpkg'
    review(mapped, scene, 3, path, size=SIZE)
    spoil(path, how)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(error, match=says): accept(path, data, scene, tmp_path/'new')
    assert not (tmp_path/'new').exists()

def test_a_file_that_is_open_elsewhere(mapped, scene, tmp_path, data):
    "As QGIS leaves it while it edits"
    path = tmp_path/'r.gpkg'
    review(mapped, scene, 2, path, size=SIZE)
    db = sqlite3.connect(path)
    db.execute('PRAGMA journal_mode=WAL')
    db.execute("UPDATE drawn SET why='x'")
    db.commit()
    with pytest.raises(PolygonError, match='is open in another program'): accept(path, data, scene, tmp_path/'new')
    db.close()

def test_another_scene_of_that_name(mapped, scene, tmp_path, data):
    review(mapped, scene, 2, tmp_path/'r.gpkg', size=SIZE)
    write_scene(scene, grid(), seed=5)
    with pytest.raises(RasterError, match='is not the scene that was reviewed'):
        accept(set_status(tmp_path/'r.gpkg', w001='done'), data, scene, tmp_path/'new')

def test_a_failure_midway_leaves_nothing(mapped, scene, tmp_path, data, monkeypatch):
    review(mapped, scene, 3, tmp_path/'r.gpkg', size=SIZE)
    whole, calls = corrections.write_chip, []
    def full(*args):
        calls.append(1)
        if len(calls)==2: raise OSError(28, 'No space left on device')
        return whole(*args)
    monkeypatch.setattr(corrections, 'write_chip', full)
    with pytest.raises(WriteError, match='The disk is full'):
        accept(set_status(tmp_path/'r.gpkg', w001='done', w002='done'), data, scene, tmp_path/'new')
    assert {o.name for o in tmp_path.iterdir()}=={'scene.tif','map.tif','data','r.gpkg'}

def test_no_window_beside_a_held_out_chip_is_taken(mapped, scene, tmp_path, data):
    "The distance from edge to edge, by pyproj"
    path = set_status_all(tmp_path/'r.gpkg', mapped, scene)
    index = load_index(data)
    at = drawn(path)
    places = at[['lon','lat','width','height','res_m']]
    index.loc[index['id']=='f2', ['lon','lat']] = at['lon'].iloc[0]+.2, at['lat'].iloc[0] # some 21 km away
    reach = np.hypot(SIZE, SIZE)*10/2000
    gap = [Geod(ellps='WGS84').inv(o.lon, o.lat, *index.set_index('id').loc['f2', ['lon','lat']])[2]/1000-2*reach
           for o in places.itertuples()]
    limit = float(np.mean(sorted(gap)[1:3]))
    report = accept(path, data, scene, tmp_path/'new', index, buffer_km=limit)
    expected = ['near f2 (valid)' if o<=limit else 'accepted' for o in gap]
    assert report['outcome'].tolist()==expected and len({*expected})==2
    assert not is_near(at[report['outcome'].to_numpy()=='accepted'], index[index['id']=='f2'], limit).any()

def set_status_all(path, mapped, scene):
    review(mapped, scene, 4, path, size=SIZE)
    return set_status(path, w001='done', w002='done', w003='done', w004='done')

def test_without_a_split_nothing_is_taken(mapped, scene, tmp_path, data):
    path = set_status_all(tmp_path/'r.gpkg', mapped, scene)
    table = pd.read_csv(data/'index.csv')
    index = load_index(data)
    table.drop(columns='split').to_csv(data/'index.csv', index=False)
    with pytest.raises(SplitError, match='has no split'): accept(path, data, scene, tmp_path/'new')
    accept(path, data, scene, tmp_path/'new', index[index['id']!='f5']) # f5 was left out by the split, and stays out
    assert set(load_index(tmp_path/'new')['id']).isdisjoint({'f5'})
    for dst,says in ((data, 'is read'), (data/'in', 'beside it')):
        with pytest.raises(WriteError, match=says): accept(path, data, scene, dst, index)
    strange = pd.concat([index, index.tail(1).assign(id='zz')])
    with pytest.raises(DatasetError, match='has not: zz'): accept(path, data, scene, tmp_path/'two', strange)

def test_two_zones_and_more_classes(tmp_path, data):
    "Maps on both sides of a border between zones; a pit inside a pond, and background on top"
    scenes, maps = [], []
    for k,(epsg, x) in enumerate(((32722, 800000), (32723, 200000))):
        cls = np.zeros((SIDE,SIDE), np.uint8)
        cls[100:200, 100:200], cls[130:160, 130:160] = 2, 1
        scenes.append(write_scene(tmp_path/f's{k}.tif', grid(epsg, x), k, radiometry=(1e-4, -.1)))
        maps.append(write_map(tmp_path/f'm{k}.tif', scenes[-1], grid(epsg, x), k, cls=cls,
                              names=('background','pit','pond')))
    path = tmp_path/'r.gpkg'
    windows = review(maps, scenes, 8, path, size=SIZE)
    assert windows.crs.to_epsg()==4326 and drawn(path)['map'].nunique()==2
    report = accept(set_status(path, **{f'w00{k}': 'done' for k in range(1, 9)}), data, scenes, tmp_path/'new')
    rows = drawn(path)
    chips = load_index(tmp_path/'new').set_index('id')
    for o in report.itertuples():
        with rasterio.open(chips.loc[o.id, 'mask']) as src: y, crs = src.read(1), src.crs
        row = rows.loc[o.window]
        assert crs.to_epsg()==(32722, 32723)[int(row['map'])]
        known = y!=255
        assert (y[known]==part(maps[int(row['map'])], row)[known]).all() and known.mean()>.9
        with rasterio.open(chips.loc[o.id, 'image']) as src: assert src.scales[0]==1e-4 and src.offsets[0]==-.1
    nameless = layer(path, 'outlines').assign(**{'class': None})
    put(path, 'outlines', nameless)
    with pytest.raises(PolygonError, match='class holds'): accept(path, data, scenes, tmp_path/'two')

def test_a_scene_that_says_nothing(tmp_path, data):
    "Bands without names, all values taken: names and meaning are the caller's, and no data stays no data"
    scene = write_scene(tmp_path/'scene.tif', grid(), bands=('B04','B08'))
    with rasterio.open(scene, 'r+') as f: f.descriptions = (None, None)
    mapped = write_map(tmp_path/'map.tif', scene, grid())
    path = set_status_all(tmp_path/'r.gpkg', mapped, scene)
    with pytest.raises(BandError, match='band_names'): accept(path, data, scene, tmp_path/'new')
    report = accept(path, data, scene, tmp_path/'new', band_names=['B04','B08'], scale=.01)
    chips = load_index(tmp_path/'new').set_index('id')
    with rasterio.open(chips.loc[report['id'][0], 'image']) as src:
        assert src.descriptions==('B04','B08') and src.scales==(.01, .01)

def test_all_errors_are_ours(mapped, scene, tmp_path, data):
    for wrong in (None, 3, tmp_path, tmp_path/'none.gpkg', scene):
        with pytest.raises(MineC2FError): accept(wrong, data, scene, tmp_path/'new')
    for wrong in (None, tmp_path/'none.tif', [], 7):
        with pytest.raises(MineC2FError): review(wrong, scene, 2, tmp_path/'r.gpkg')
        with pytest.raises(MineC2FError): review(mapped, wrong, 2, tmp_path/'r.gpkg')
    for wrong in (0, -1, 2.5, 'two'):
        with pytest.raises(MineC2FError): review(mapped, scene, wrong, tmp_path/'r.gpkg')
