"Where things are shown: held against PROJ's and geopandas' own numbers. What strangers' files cannot do to a page."
import json, re
from importlib.util import find_spec

import geopandas as gpd, matplotlib, numpy as np, pandas as pd, pytest, rasterio, rasterio.warp, shapely
from matplotlib.figure import Figure
from rasterio.transform import from_origin
from shapely.geometry import box

from minec2f.core import MineC2FError, OptionError
from minec2f.maps import to_map, to_polygons, write_map
from minec2f.raster import Grid, write_raster
from minec2f.webmap import view

matplotlib.use('agg')
needs_folium = pytest.mark.skipif(find_spec('folium') is None, reason="no folium here: pip install 'minec2f[view]'")

HILL = rasterio.CRS.from_epsg(32723), (660000, 7755000)
FIJI = rasterio.CRS.from_epsg(32701), (172900, 8118000) # across the 180th meridian

def a_map(path, place=HILL, shape=(120, 160), day='2021-06-12'):
    crs, corner = place
    scores = np.zeros((2, *shape))
    scores[0] = 5
    scores[1, 20:60, 30:110] = 9
    grid = Grid(crs, from_origin(*corner, 10, 10), *shape)
    return write_map(path, [to_map(scores, np.ones(shape, bool), True)], grid, ['background','mine'], dict(date=day))

@pytest.fixture(scope='module')
def d(tmp_path_factory):
    d = tmp_path_factory.mktemp('view')
    for name,place in dict(hill=HILL, fiji=FIJI).items(): to_polygons(a_map(d/f'{name}.tif', place), d/f'{name}.gpkg')
    return d

def texts(fig): return {o.get_text() for ax in fig.axes for o in ax.texts}

def test_a_picture_has_scale_legend_and_north(d):
    fig = view(d/'hill.tif', d/'hill.gpkg', still=True)
    assert isinstance(fig, Figure) and {'N', '200 m'}<=texts(fig)
    ax, bar = fig.axes
    assert [o.get_text() for o in ax.get_legend().get_texts()]==['mine'] and bar.get_ylabel()=='probability of mine'
    assert ax.get_title()=='2021-06-12' and ax.get_aspect()==1
    length, = {np.ptp(o.get_xdata()) for o in ax.lines}
    assert np.isclose(length, 200)  # metres

def test_two_dates_are_two_panels_of_the_same_place(d, tmp_path):
    a_map(tmp_path/'later.tif', day='2023-06-20')
    fig = view(d/'hill.tif', after=tmp_path/'later.tif', still=True)
    left, right, _ = fig.axes
    assert [left.get_title(), right.get_title()]==['2021-06-12','2023-06-20'] and left.get_xlim()==right.get_xlim()
    fig = view(d/'hill.tif', after=[d/'hill.gpkg'], still=True)  # of the same day: which is which cannot be said by it
    assert [o.get_title() for o in fig.axes[:2]]==['before','after']
    fig = view(d/'hill.tif', after=d/'hill.tif', names=['ours', 'theirs'], still=True)
    assert [o.get_title() for o in fig.axes[:2]]==['ours','theirs']

def test_other_rasters_and_layers_in_any_crs(d, tmp_path):
    grid = Grid(rasterio.CRS.from_epsg(4326), from_origin(-43.47, -20.28, 1e-4, 1e-4), 80, 90)
    pixels = np.random.default_rng(0).integers(1, 99, (1, 80, 90)).astype(np.uint8)
    write_raster(tmp_path/'one_band.tif', pixels, grid)
    write_raster(tmp_path/'class.tif', pixels%3, grid, nodata=255, names=['class'])
    outlines = gpd.read_file(d/'hill.gpkg', layer='hill').to_crs(3857)
    fig = view(tmp_path/'one_band.tif', tmp_path/'class.tif', outlines, still=True)
    assert len(fig.axes[0].images)==2 and fig.axes[0].collections

def test_a_large_raster_is_shown_in_few_pixels(tmp_path):
    crs, corner = HILL
    profile = dict(driver='GTiff', count=3, dtype='uint16', height=8000, width=6000, nodata=0, crs=crs, tiled=True,
                   transform=from_origin(*corner, 10, 10), sparse_ok=True, compress='deflate')
    with rasterio.open(tmp_path/'large.tif', 'w', **profile) as f:
        f.write(np.full((3, 600, 600), 900, np.uint16), window=((4000, 4600), (900, 1500)))
        f.build_overviews([8])
    fig = view(tmp_path/'large.tif', still=True, most_pixels=400)
    shown, = fig.axes[0].images
    assert max(shown.get_array().shape[:2])==400

def test_a_name_is_no_formula(d):
    odd = gpd.read_file(d/'hill.gpkg', layer='hill').assign(date=r'$\frac{')
    odd['class'] = r'$\sqrt'
    view(odd, still=True).canvas.draw()

def test_what_was_kept_is_dashed(d):
    outlines = gpd.read_file(d/'hill.gpkg', layer='hill')
    beside = outlines.assign(status='kept: on no image').set_geometry(outlines.translate(500))
    fig = view(pd.concat([outlines.assign(status='refined'), beside]), still=True)
    assert len({str(o.get_linestyle()) for o in fig.axes[0].collections})==2

NOTHING = [(), (3,), (None,), ('none.tif',), ('none.gpkg',), ([],), (gpd.GeoDataFrame(geometry=[], crs=4326),)]

@pytest.mark.parametrize('given', NOTHING)
def test_what_is_nothing_is_refused(given):
    with pytest.raises(MineC2FError): view(*given, still=True)

def test_without_folium_there_is_a_picture(d, monkeypatch):
    monkeypatch.setattr('minec2f.webmap.find_spec', lambda name: None)
    assert isinstance(view(d/'hill.tif'), Figure)
    with pytest.raises(OptionError, match=r"minec2f\[view\]"): view(d/'hill.tif', still=False)

# On a page

def page(*shown, **how):
    "(text, bounds of images [south, west, north, east], features) of a page"
    text = view(*shown, **how).get_root().render()
    images = [np.ravel(json.loads(o)) for o in re.findall(r'L\.imageOverlay\(\s*"[^"]*",\s*(\[\[.*?\]\]),', text, re.S)]
    layers = [json.loads(o) for o in re.findall(r'_add\((\{.*?\})\);\n', text)]
    return text, images, [o for layer in layers for o in layer['features']]

@needs_folium
@pytest.mark.parametrize('name,turn', [('hill', 0), ('fiji', 360)])
def test_a_page_puts_things_where_they_lie(d, name, turn):
    _, (image,), (feature,) = page(d/f'{name}.tif', d/f'{name}.gpkg')
    with rasterio.open(d/f'{name}.tif') as f:
        corners = shapely.segmentize(box(*f.bounds), 100).exterior.coords.xy
        lon, lat = map(np.array, rasterio.warp.transform(f.crs, 'EPSG:4326', *corners))
    if turn: lon = np.where(lon<0, lon+360, lon)
    want = [lat.min(), lon.min(), lat.max(), lon.max()]
    middle = (image[1]+image[3])/2
    image[[1, 3]] += 360*round((np.mean(lon)-middle)/360)
    assert np.abs(image-want).max()<1.5e-4  # a pixel of the map
    outline = gpd.read_file(d/f'{name}.gpkg', layer=name).to_crs(4326).geometry[0]
    x, y = np.array(feature['geometry']['coordinates'][0]).T
    u, v = outline.exterior.coords.xy
    assert np.abs((x-u+180)%360-180).max()<1e-8 and np.abs(y-v).max()<1e-8 and np.ptp(x)<.1

@needs_folium
def test_what_is_shown_is_text_whoever_wrote_it(d, tmp_path):
    bad = '"><script>alert(1)</script>{{7*191}}{%x%}`${1}`'  # for a browser, a template, a script
    mines = gpd.read_file(d/'hill.gpkg', layer='hill').assign(site=bad, scene='</script><img src=x>', status=None)
    mines['class'] = mines['date'] = bad
    text, _, (feature,) = page(mines, after=d/'hill.tif', names=[bad, '</script>'])
    told = text.replace('\\u003c', '<').replace('\\u003e', '>').replace('\\u0026', '&')
    assert '<script>alert' not in told and '1337' not in told and told.count('<img ')==1
    assert feature['properties']['site'].startswith('&quot;&gt;&lt;script')
    assert feature['properties']['status']==''

@needs_folium
def test_two_dates_have_a_pane_each(d):
    text, images, features = page(d/'hill.tif', d/'hill.gpkg', after=[d/'hill.tif', d/'hill.gpkg'])
    assert len(images)==len(features)==2
    assert [text.count(f'"pane": "side{k}"') for k in (0, 1)]==[2, 2] and "title: 'swipe'" in text
    alone, *_ = page(d/'hill.tif')
    assert "title: 'swipe'" not in alone
