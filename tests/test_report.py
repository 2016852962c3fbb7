"A report and a model card: numbers of another library, files and pages of strangers, and nothing half-written."
import json, re, shutil, sys
from dataclasses import replace
from html.parser import HTMLParser
from random import Random

import geopandas as gpd, numpy as np, pytest, rasterio
from markdown_it import MarkdownIt
from pypdfium2 import PdfDocument
from rasterio.transform import from_origin
from shapely import Point, box

from fuzz import ODD, small_bundle, spoil_page
from minec2f.bundle import MODEL_CARD, load_bundle, read_card, save_info, save_temperature
from minec2f.core import *
from minec2f.document import Heading, Items, Table, to_pdf
from minec2f.maps import MAP_BANDS, to_polygons, write_map
from minec2f.modelcard import model_card
from minec2f.raster import Grid, layer_ha, write_polygons, write_raster
from minec2f.report import outlines_figure, report_page, write_report
from minec2f.runs import area_table, maps_seen, read_run

NASTY = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "a' onclick='x", '$\\frac{1}$', '=1+1',
         'é 日本 Ω', '| a | b |', '](javascript:alert(1))', '\u202egnp.exe', 'x'*400, '&lt;b&gt;', '{{7*7}}',
         '`rm`', '%s {0}']

def a_map(folder, name, mask, epsg=32723, corner=(600_000, 7_700_000), res=10., scene=None, p=None):
    grid = Grid(rasterio.CRS.from_epsg(epsg), from_origin(*corner, res, res), *mask.shape)
    p = np.where(mask, 225, 10) if p is None else p
    bands = np.where(mask==255, 255, np.stack([mask, p])).astype(np.uint8)
    path = folder/f'{name}.tif'
    write_map(path, [bands], grid, ['background','mine'], dict(scene=scene or f'{name}.tif'), bands=MAP_BANDS[:2])
    to_polygons(path, path.with_suffix('.gpkg'))
    return grid

def square(h=60, w=80, rows=slice(10, 30), cols=slice(20, 60)):
    mask = np.zeros((h, w), int)
    mask[rows,cols] = 1
    return mask

# Hectares

@pytest.mark.parametrize('seed', range(2))
def test_hectares_of_geopandas(tmp_path, seed):
    "Maps that overlap at random, in two UTM zones: union and sum in an equal-area projection of the whole Earth"
    rng = np.random.default_rng(seed)
    for k in range(4):
        epsg = (32722, 32723)[k%2]
        west = (832_000, 167_000)[k%2]+rng.uniform(0, 120)  # on both sides of 48° W
        a_map(tmp_path, f'm{k}', (rng.random((24,30))<.4).astype(int), epsg, (west, 7_700_000+rng.uniform(0, 120)))
    run = read_run(tmp_path)
    equal = run.polygons.to_crs(6933)
    table = area_table(run).set_index('site')
    for name,o in equal.groupby('scene'):
        assert np.isclose(table.loc[name,'area_ha'], o.union_all().area/1e4, rtol=1e-4)
        mean = (o['mean_probability']*o['area_ha']).sum()/o['area_ha'].sum()
        assert np.isclose(table.loc[name,'mean_probability'], mean) and table.loc[name,'polygons']==len(o)
    assert np.isclose(table.loc['total','area_ha'], equal.union_all().area/1e4, rtol=1e-4)
    assert table.loc['total','area_ha']<.95*equal.area.sum()/1e4

def test_across_the_antimeridian_and_near_training(tmp_path):
    a_map(tmp_path, 'fiji', square(), 32701, (500_000-400-3*105_000, 8_000_000))
    lonlat = read_run(tmp_path).polygons.geometry.total_bounds
    assert lonlat[0]<-179 or lonlat[2]>179
    run = read_run(tmp_path)
    assert np.isclose(area_table(run)['area_ha'].iloc[-1], 8., rtol=2e-3)
    places = dict(lon=[179.99], lat=[-18.08], reach_km=[1.])
    assert maps_seen(replace(run, card=dict(info=dict(dataset=dict(places=places)))))=={'fiji': True}

def test_a_map_without_a_mine(tmp_path):
    a_map(tmp_path, 'bare', np.zeros((40,50), int))
    table = area_table(read_run(tmp_path))
    assert table[['site','polygons','area_ha']].to_numpy().tolist()==[['total', 0, 0.]]
    assert write_report(read_run(tmp_path), tmp_path/'report', pdf=False).exists()

# Strangers

class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.attributes, self.text = set(), set(), ''
        self.feed(html)
    def handle_starttag(self, name, attrs):
        self.found.add(name)
        self.attributes |= {k for k,_ in attrs}
    def handle_data(self, data): self.text += data

USUAL = set('html meta title style h1 h2 h3 p ul li table tr th td pre figure img figcaption'.split())

def strange_run(folder, names):
    "Everything that has a name has a strange one"
    a_map(folder, 'm', square(), scene=names[0])
    shapes = [Point(-44-k/10, -20).buffer(.01) for k in range(len(names))]
    before = gpd.GeoDataFrame(dict(site=[*names, None, '']), geometry=[*shapes, None, shapes[0]], crs=4326)
    ha = layer_ha(before.geometry)
    done = before.assign(area_before_ha=ha, area_after_ha=ha, confidence=.5, covered=1.,
                         status=['refined']*3+names[1:], image=before['site'].fillna(''))
    write_polygons(before, folder/'outlines.gpkg')
    write_polygons(done, folder/'refined.gpkg')
    odd, *_ = names
    scores = dict(miou=.5, chips=3, sites=odd, **{f'iou_{odd}': .4})
    page = dict(config=dict(buffer_km=odd), best=odd, scores={odd: scores},
                scene_scores={odd: dict(miou=odd)}, maps=dict(m=dict(seen_in_training=odd)))
    (folder/'metrics.json').write_text(json.dumps(page))
    return dict(info=dict(method=odd, dataset=dict(name=odd, sensors=names, licence=odd)),
                input=dict(classes=['background', odd], bands=names))

def readable(name): return ' '.join(''.join(o if o.isprintable() else ' ' for o in name).split())

def test_no_name_breaks_the_page(tmp_path):
    card = strange_run(tmp_path, NASTY)
    run = replace(read_run(tmp_path), card=card)
    done = write_report(run, tmp_path/'report', title=NASTY[0], pictures=4)
    page = Elements((done/'report.html').read_text(encoding='utf-8'))
    assert page.found<=USUAL and page.attributes<=set('lang charset http-equiv content name class alt src'.split())
    assert [o for o in NASTY if readable(o)[:250] not in page.text]==[]
    assert {*NASTY}<={*area_table(run)['site']}
    with PdfDocument(done/'report.pdf') as pdf: assert len(pdf)>=3

ALLOWED = set('h1 h2 p ul li table thead tbody tr th td pre code'.split())

def test_no_card_breaks_its_page():
    read_markdown = MarkdownIt('commonmark').enable('table').render
    lists = dict(lon=[1.], lat=[2.], reach_km=[3.])
    card = dict(model=dict(arch='fpn', encoder='x'), versions=dict(a='1'), weights_sha256='0',
                input=dict(bands=['B04'], classes=['background','mine'], size=64, res=10., scale=1e-4, offset=0.),
                info=dict(method='m', steps=3, scores=dict(miou=.5, miou_low=.4, miou_high=.6, chips=4, sites=2),
                          run=dict(lr=1e-3), encoder_weights=dict(license='x'), dataset=dict(
                              name='d', licence='CC0', synthetic=False, sensors=['s'], climates=['A'],
                              countries=['BR'], chips=dict(fine=dict(train=dict(chips=1, sites=1))), places=lists,
                              sources=[dict(name='n')])))
    for seed in range(150):
        page = Elements(read_markdown(model_card(spoil_page(Random(seed), card))))
        assert page.found<=ALLOWED, seed
    for o in [*ODD, *NASTY]:
        spoilt = json.loads(json.dumps(card).replace('"mine"', json.dumps(str(o)[:500])))
        assert Elements(read_markdown(model_card(spoilt))).found<=ALLOWED

# Bundles

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bundle')/'good'
    small_bundle(folder)
    return folder

def test_an_older_bundle_has_no_page_and_gets_one(bundle, tmp_path):
    old = tmp_path/'old'
    shutil.copytree(bundle, old, ignore=shutil.ignore_patterns(MODEL_CARD))
    assert load_bundle(old).info==dict(seed=0)
    page = json.loads((old/'.minec2f').read_text())
    page['files'].pop(MODEL_CARD)  # as an older version wrote it
    (old/'.minec2f').write_text(json.dumps(page))
    save_temperature(old, 1.5)
    assert '| temperature | 1.5 |' in (old/MODEL_CARD).read_text() and load_bundle(old).temperature==1.5

def test_what_somebody_wrote_into_the_page_stays(bundle, tmp_path):
    ours = tmp_path/'ours'
    shutil.copytree(bundle, ours)
    (ours/MODEL_CARD).write_text('years of work')
    before = (ours/'bundle.json').read_bytes()
    with pytest.raises(WriteError, match=MODEL_CARD): save_info(ours, scores=dict(miou=.5))
    assert (ours/MODEL_CARD).read_text()=='years of work' and (ours/'bundle.json').read_bytes()==before
    assert load_bundle(ours).info==dict(seed=0)  # nothing is read from it

def test_the_page_says_what_the_card_says(bundle, tmp_path):
    ours = tmp_path/'ours'
    shutil.copytree(bundle, ours)
    save_info(ours, scores=dict(miou=.75, miou_low=.5, miou_high=.875, chips=40, sites=25), dataset=dict(licence='CC0'))
    text = (ours/MODEL_CARD).read_text()
    assert text==model_card(read_card(ours))
    assert '| 0.750 | 0.500 to 0.875 |' in text and 'too short' not in text and 'Licence of the data: CC0' in text

# Files

def test_nothing_is_left_without_fpdf2(tmp_path, monkeypatch):
    a_map(tmp_path, 'm', square())
    monkeypatch.setitem(sys.modules, 'fpdf', None)
    run = read_run(tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'minec2f\[report\]'"): write_report(run, tmp_path/'r')
    assert not (tmp_path/'r').exists() and not list(tmp_path.glob('.minec2f*'))
    assert write_report(run, tmp_path/'r', pdf=False).exists()

def test_the_pdf_holds_what_the_page_says(tmp_path):
    a_map(tmp_path, 'm', square())
    run = read_run(tmp_path)
    page = report_page(run, area_table(run), 'Mines')
    words = []
    for o in page:
        if isinstance(o, str): words += o.split()
        if isinstance(o, Heading): words += o.text.split()
        if isinstance(o, Items): words += ' '.join(o.texts).split()
        if isinstance(o, Table): words += ' '.join(map(str, o.rows)).split()
    with PdfDocument(to_pdf(page, 'Mines')) as pdf:
        said = ' '.join(o.get_textpage().get_text_range() for o in pdf)
    flat = re.sub(r'\s|\ufffe|-', '', said)
    assert len(words)>100 and [o for o in words if o.replace('-', '') not in flat]==[]

def test_other_formats_and_other_files(tmp_path):
    "Polygons as GeoParquet, a scene beside its map, a layer of somebody else"
    grid = a_map(tmp_path, 'm', square())
    gpd.read_file(tmp_path/'m.gpkg').to_parquet(tmp_path/'m.parquet')
    (tmp_path/'m.gpkg').unlink()
    write_raster(tmp_path/'scene.tif', np.ones((2, *grid.shape), np.uint16), grid, names=['B04','B03'])
    run = read_run(tmp_path)
    assert [*run.maps]==['m'] and len(run.polygons)==1
    gpd.GeoDataFrame(dict(name=['x']), geometry=[box(0,0,1,1)], crs=4326).to_file(tmp_path/'m.gpkg')
    with pytest.raises(PolygonError, match='m.gpkg has no column scene, area_ha, mean_probability'): read_run(tmp_path)

def test_an_image_that_does_not_show_an_outline_is_not_shown(tmp_path):
    "Of a name that fits, but elsewhere; and one that is damaged"
    grid = a_map(tmp_path, 'm', square())
    (tmp_path/'images').mkdir()
    elsewhere = Grid(grid.crs, from_origin(0, 1e6, 10, 10), 50, 50)
    write_raster(tmp_path/'images'/'a.tif', np.ones((3, 50, 50), np.uint16), elsewhere, names=['B04','B03','B02'])
    (tmp_path/'images'/'b.tif').write_bytes(b'II*\0 no image')
    shapes = gpd.GeoDataFrame(geometry=[box(600_100, 7_699_600, 600_500, 7_699_800)]*2, crs=32723)
    ha = layer_ha(shapes.geometry)
    done = shapes.assign(area_before_ha=ha, area_after_ha=ha, confidence=.5, covered=1., status='refined',
                         image=['a.tif','b.tif'])
    write_polygons(done, tmp_path/'refined.gpkg')
    fig = outlines_figure(read_run(tmp_path))
    assert [(o.images[0].get_array()==1).all() for o in fig.axes[:2]]==[True, True]
