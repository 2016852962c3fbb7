"Files as a GIS finds them: read by GDAL, SQLite, pyarrow and, where it is installed, by QGIS itself."
import json, os, sqlite3, subprocess, time
from contextlib import closing
from pathlib import Path
from xml.etree.ElementTree import fromstring

import geopandas as gpd, numpy as np, pyogrio, pytest, rasterio
from PIL import Image
from rasterio.transform import from_origin
from shapely.geometry import box

from minec2f.core import MineC2FError, WriteError
from minec2f.maps import to_map, to_polygons, write_map
from minec2f.predict import mapped_before, predict_scene
from minec2f.raster import VECTOR_FORMATS, Grid, read_layer
from minec2f.refine import RESULT_COLUMNS, refine_polygons
from minec2f.styles import RAMP, class_colour, class_outlines, outline_style, write_layer
from test_predict import bright, write_scene

CLASSES = ['background', 'pit', 'pond']
GRID = Grid(rasterio.CRS.from_epsg(32723), from_origin(600000, 7700000, 10, 10), 300, 300)
TAGS = dict(scene='hill_20190615.tif', date='2019-06-15', site='hill', bundle='0123456789abcdef')

def a_map(path, classes=CLASSES, tags=TAGS):
    "Two pits and a pond, and a strip without data"
    scores = np.zeros((3, *GRID.shape))
    scores[0] = 6
    scores[1, 30:90, 30:90], scores[1, 200:240, 60:140], scores[2, 120:220, 180:260] = 9, 9, 9
    valid = np.ones(GRID.shape, bool)
    valid[:, 280:] = False
    return write_map(path, [to_map(scores, valid)], GRID, classes, tags)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Folder with a map and its polygons"
    d = tmp_path_factory.mktemp('gis')
    to_polygons(a_map(d/'map.tif'), d/'map.gpkg')
    return d

def test_a_map_says_where_it_comes_from_and_lies_with_its_looks(made):
    assert sorted(o.name for o in made.glob('map.*'))==['map.gpkg','map.qml','map.tif','map.tif.aux.xml']
    with rasterio.open(made/'map.tif') as f:
        assert {k: f.tags()[k] for k in TAGS}==TAGS and f.tags(ns='IMAGE_STRUCTURE')['LAYOUT']=='COG'
        assert [o.name for o in f.colorinterp]==['palette','undefined','undefined']  # neither transparency nor RGB
        assert [f.colormap(1)[k] for k in (0, 1, 2)]==[(255,255,255,0), (213,94,0,255), (0,114,178,255)]
        assert f.read_masks(1)[0, [0, -1]].tolist()==[255, 0]

def test_each_polygon_says_what_it_is_in_every_format(made, tmp_path):
    want = read_layer(made/'map.gpkg')
    assert [o for o in want if o!='geometry']==['id','site','class','area_ha','mean_probability','mean_uncertainty',
                                                'pixels','scene','date','model']
    assert want.id.tolist()==[f'hill_20190615-{k}' for k in (1, 2, 3)]
    assert (want[['site','date','model']]==['hill','2019-06-15','0123456789abcdef']).all(axis=None)
    for suffix in VECTOR_FORMATS:
        to_polygons(made/'map.tif', tmp_path/f'm{suffix}')
        again = read_layer(tmp_path/f'm{suffix}').dissolve('id')
        assert again.index.tolist()==sorted(want.id)
        assert np.allclose(again.to_crs(GRID.crs).area, want.set_index('id').area[again.index], rtol=2e-3)

def test_a_patch_keeps_its_name(made, tmp_path):
    "Whatever is left out or simplified"
    whole = read_layer(made/'map.gpkg').set_index('id')
    large = to_polygons(made/'map.tif', tmp_path/'large.gpkg', min_area_ha=34, simplify_m=20)
    assert len(large)==2 and set(large.id)==set(whole.index[whole.area_ha>=34])

def test_a_geopackage_is_one(made):
    "By the rules of its standard that concern what was added"
    with closing(sqlite3.connect(made/'map.gpkg')) as db:
        assert db.execute('PRAGMA integrity_check').fetchall()==[('ok',)]
        assert db.execute('PRAGMA foreign_key_check').fetchall()==[]
        kinds = dict(db.execute('SELECT table_name, data_type FROM gpkg_contents'))
        assert kinds==dict(map='features', layer_styles='attributes')
        said = db.execute("SELECT table_name FROM gpkg_extensions WHERE extension_name='gpkg_schema'").fetchall()
        assert {o for o, in said}=={'gpkg_data_columns', 'gpkg_data_column_constraints'}
        names = {o[1] for o in db.execute('PRAGMA table_info(map)')}
        described = dict(db.execute("SELECT column_name, description FROM gpkg_data_columns WHERE table_name='map'"))
        assert names-{'fid','geom'}==set(described) and all(described.values())

def test_a_geopackage_can_be_edited(made, tmp_path):
    "GDAL adds a row, and style and descriptions stay"
    path = tmp_path/'m.gpkg'
    path.write_bytes((made/'map.gpkg').read_bytes())
    more = read_layer(path).rename_geometry('geom')
    pyogrio.write_dataframe(more[:1], path, layer='map', append=True, driver='GPKG')
    assert len(read_layer(path))==len(more)+1 and len(pyogrio.read_dataframe(path, layer='layer_styles'))==1

def test_with_a_fixed_clock_the_file_is_the_same_to_the_byte(made, tmp_path):
    pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': '2026-01-01T00:00:00.000Z'})
    try:
        for name in 'ab':
            (tmp_path/name).mkdir()
            to_polygons(made/'map.tif', tmp_path/name/'m.gpkg')
            time.sleep(.01)
    finally: pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': None})
    assert (tmp_path/'a'/'m.gpkg').read_bytes()==(tmp_path/'b'/'m.gpkg').read_bytes()

ODD = ['<a href="x">&\'"', 'tab\tnew\nline \0 \x1b', 'ÆØÅ 鉱山 ⛏', "it''s \\ a 'name'", '', 300*'x', '</qgis>']

def test_names_of_strangers_break_no_file(tmp_path):
    a_map(tmp_path/'m.tif', ['background', *ODD[:2]])
    to_polygons(tmp_path/'m.tif', tmp_path/'m.gpkg')
    for classes in (ODD, [*reversed(ODD)]):
        style = outline_style(class_outlines(classes))
        rules = [*fromstring(style).iter('rule')]
        assert len(rules)==len(ODD) and len(pyogrio.read_dataframe(tmp_path/'m.gpkg', layer='layer_styles'))==1
    with rasterio.open(tmp_path/'m.tif') as f: assert f.colormap(1)[1]==(213,94,0,255)
    fromstring((tmp_path/'m.qml').read_text(encoding='utf-8'))

def test_more_classes_than_colours(tmp_path):
    a_map(tmp_path/'m.tif', ['background', *(f'kind {k}' for k in range(20))])
    with rasterio.open(tmp_path/'m.tif') as f: assert f.colormap(1)[8]==f.colormap(1)[1]

def test_a_users_style_stays_and_ours_is_renewed(tmp_path):
    a_map(tmp_path/'m.tif')
    ours, qml = (tmp_path/'m.qml').read_text(), tmp_path/'m.qml'
    qml.write_text(ours.replace('#fee838', '#ffffff'))  # an earlier one of ours
    a_map(tmp_path/'m.tif')
    assert qml.read_text()==ours
    qml.write_text('<qgis version="3.40"/>')
    counted = '<PAMDataset><Metadata><MDI key="STATISTICS_MEAN">9</MDI></Metadata></PAMDataset>'
    (tmp_path/'m.tif.aux.xml').write_text(counted)
    a_map(tmp_path/'m.tif')
    assert qml.read_text()=='<qgis version="3.40"/>'
    with rasterio.open(tmp_path/'m.tif') as f: assert 'STATISTICS_MEAN' not in f.tags()  # of other pixels
    qml.unlink()
    for make in (qml.mkdir, lambda: os.mkfifo(qml)):
        make()
        a_map(tmp_path/'m.tif')
        if qml.is_dir(): qml.rmdir()

def test_the_day_of_a_scene(tmp_path):
    scene = write_scene(tmp_path/'S2B_MSIL2A_20210612T132239_N0300.tif')
    done = predict_scene(bright(), scene, tmp_path/'map.tif', progress=False)
    with rasterio.open(done) as f: assert f.tags()['date']=='2021-06-12'
    assert to_polygons(done, tmp_path/'m.gpkg')['date'].eq('2021-06-12').all()
    assert mapped_before(bright(), scene, done)
    with rasterio.open(scene, 'r+') as f: f.update_tags(date='2020-02-03')
    assert not mapped_before(bright(), scene, done)  # it says something else now

def test_refined_outlines_have_looks_and_keep_the_users_columns(tmp_path):
    scene = write_scene(tmp_path/'s.tif')
    mines = gpd.GeoDataFrame(dict(id=[7, 8], status=['open', 'shut']), crs=GRID.crs,
                             geometry=[box(600100, 7699500, 600500, 7699900), box(600600, 7699500, 600900, 7699800)])
    refine_polygons(bright(), mines, scene, tmp_path/'r.gpkg', progress=False, device='cpu')
    with closing(sqlite3.connect(tmp_path/'r.gpkg')) as db:
        described = {o for o, in db.execute('SELECT column_name FROM gpkg_data_columns')}
        (style,), = db.execute('SELECT styleQML FROM layer_styles')
    assert described==set(RESULT_COLUMNS)  # the user's id is not ours
    assert [o.get('label') for o in fromstring(style).iter('rule')]==['refined', 'as it was']

def test_nothing_is_left_of_a_layer_that_fails(tmp_path):
    mines = gpd.GeoDataFrame(dict(a=[1]), geometry=[box(0, 0, 1, 1)], crs=4326)
    for name in ('m.gpkg', 'm.parquet'):
        with pytest.raises((MineC2FError, AttributeError, TypeError, sqlite3.Error)):
            write_layer(mines, tmp_path/name, object(), dict(a=None))
    with pytest.raises(WriteError): write_layer(mines.iloc[:0], tmp_path/'m.pmtiles', outline_style([]))
    assert [*tmp_path.iterdir()]==[]

# In QGIS itself

QGIS_PYTHON = os.environ.get('QGIS_PYTHON', '/usr/bin/python3')

def has_qgis():
    try: return subprocess.run([QGIS_PYTHON, '-c', 'import qgis.core'], capture_output=True).returncode==0
    except OSError: return False

def in_qgis(folder, *names):
    "What QGIS says of files in a folder, and its picture (600,600,3)"
    script = Path(__file__).with_name('in_qgis.py')
    asked = [QGIS_PYTHON, script, folder/'qgis.png', *(folder/o for o in names)]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    picture = np.asarray(Image.open(folder/'qgis.png').convert('RGB'))
    return json.loads(done.stdout.splitlines()[-1]), picture.astype(int)

@pytest.mark.skipif(not has_qgis(), reason='no QGIS here (QGIS_PYTHON=… names the Python that has it)')
def test_qgis_shows_what_we_mean(made):
    (of_map, of_polygons), picture = in_qgis(made, 'map.tif', 'map.gpkg')
    assert (of_map['renderer'], of_map['bands'], of_map['limits'])==('singlebandpseudocolor', [2], [0, 1])
    assert [[p, o] for p,o,_ in of_map['stops']]==[[p, o] for p,o in RAMP.items()]
    assert of_polygons['rules']==[['pit', ['SimpleLine'], class_colour(1).lower(), 2],
                                  ['pond', ['SimpleLine'], class_colour(2).lower(), 1]]
    def at(row, col): return picture[2*row+1, 2*col+1]  # two pixels of the picture for one of the map
    assert at(10, 10).min()>250 and at(10, 290).min()==255               # surely no mine, and no data: transparent
    inside = [int(RAMP[1][k:k+2], 16) for k in (1, 3, 5)]
    assert np.abs(at(60, 60)-(np.array(inside)*230+255*25)/255).max()<20 # a pit is a probability, not a fill
    orange = np.abs(picture-[213,94,0]).max(2)<20
    assert orange[60:180, 55:65].any() and not orange[90:150, 90:150].any()
