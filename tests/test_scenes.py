"Whole scenes of real data: found as they are named, measured in hectares although their pixels are degrees."
from types import SimpleNamespace

import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio, shapely, torch
from rasterio import features
from rasterio.transform import from_origin
from shapely.geometry import shape

from minec2f.chips import load_index, load_scenes
from minec2f.core import DatasetError, GridError, MineC2FError, OptionError, RasterError
from minec2f.raster import Grid, layer_ha, write_raster
from minec2f.scenescores import evaluate_scenes, match_objects, score_map, seen_in_training, summarize_scenes

class Bright(torch.nn.Module):
    "A rule: everything bright in the red is mine"
    def forward(self, x): return torch.stack([1400-x[:,0], x[:,0]-1400], 1)

BRIGHT = SimpleNamespace(model=Bright(), bands=['B04'], classes=['background','mine'], size=64,
                         encode=lambda dn, valid: np.where(valid, dn, np.nan).astype(np.float32))

@pytest.fixture
def scenes(real): return load_scenes(real/'tailings_br')

def polygons(path, is_mine): # as GDAL draws patches that touch at corners, too
    with rasterio.open(path) as src:
        mask = is_mine(src.read())
        found = features.shapes(mask.astype(np.uint8), mask, connectivity=8, transform=src.transform)
        return gpd.GeoSeries([shape(o).buffer(0) for o,_ in found], crs=src.crs)

def test_masks_are_found_by_their_names(scenes):
    assert scenes['id'].tolist()==['tail_005','tail_100','tail_110']
    assert all(o.endswith(f'{k}_mask.tif') for k,o in zip(scenes['id'], scenes['mask']))

def test_objects_and_hectares_are_those_of_polygons(scenes):
    "Counted again with GDAL's polygons, shapely and areas on the ellipsoid; nothing is left out as too small"
    found = evaluate_scenes(BRIGHT, scenes, min_area_ha=0., device='cpu')
    for row,o in zip(scenes.itertuples(), found.itertuples()):
        true = polygons(row.mask, lambda x: x[0]==1)
        mapped = polygons(row.image, lambda x: x[2]>1400)
        assert (o.objects_true, o.objects_mapped)==(len(true), len(mapped))
        assert o.true_ha==pytest.approx(layer_ha(true).sum(), rel=2e-3)
        assert o.mapped_ha==pytest.approx(layer_ha(mapped).sum(), rel=2e-3)
        beside = [i for i,p in enumerate(mapped) if shapely.area(true.intersection(p).values).max()==0]
        assert o.false_alarms==len(beside)
    line = summarize_scenes(found)
    assert line['false_alarms_1000km2']==pytest.approx(1000*found['false_alarms'].sum()/found['area_km2'].sum())

def test_sites_of_the_index_are_seen(real, scenes):
    "Each scene lies at the site of some chips; those of a test split do not count"
    index = load_index(real/'tailings_br', real/'tailings_br'/'coarse_polygons.gpkg').assign(split='train')
    assert seen_in_training(scenes, index).all()
    held = index.assign(split=index['site'].map({'37': 'test'}).fillna('train'))
    assert seen_in_training(scenes, held).tolist()==[False, True, True]

# Scenes as other programs and people leave them

DN = np.full((1,60,80), 1000, np.uint16)
DN[0,10:30,10:40] = 2000
TRUE = (DN[0]>1400).astype(np.uint8)
PLACE = Grid(rasterio.CRS.from_epsg(32723), from_origin(600000, 7700000, 10, 10), 60, 80)

def scene(folder, mask=TRUE, mask_name='a_mask.tif', name='a.tif'):
    folder.mkdir(exist_ok=True)
    write_raster(folder/name, DN, PLACE, names=['B04'])
    write_raster(folder/mask_name, mask, PLACE)
    return folder

def found_ha(scenes): return evaluate_scenes(BRIGHT, scenes, device='cpu')['true_ha'].tolist()

@pytest.mark.parametrize('name', ['a_mask.tif','a_mask.TIF','a_MASK.tif','A_Mask.TIFF'])
def test_a_mask_is_found_whatever_its_capitals(tmp_path, name):
    scenes = load_scenes(scene(tmp_path/'s', mask_name=name))
    assert scenes['id'].tolist()==['a'] and scenes['mask'].tolist()==[str(tmp_path/'s'/name)]
    assert found_ha(scenes)==[6.]

def test_a_mask_is_found_however_its_accents_are_stored(tmp_path):
    scene(tmp_path/'s', mask_name='mine\u0301_mask.tif', name='min\u00e9.tif')
    assert found_ha(load_scenes(tmp_path/'s'))==[6.]

def test_scenes_that_differ_in_capitals_keep_their_own_masks(tmp_path):
    scene(tmp_path, mask_name='A_mask.tif', name='north.tif')
    write_raster(tmp_path/'a_mask.tif', TRUE, PLACE)
    for name in 'aA':
        write_raster(tmp_path/f'{name}.tif', DN, PLACE, names=['B04'])
        assert load_scenes(tmp_path/f'{name}.tif')['mask'].tolist()==[str(tmp_path/f'{name}_mask.tif')]

@pytest.mark.parametrize('dtype,nodata', [('int16',-9999), ('int32',None), ('float32',np.nan), ('float64',-1e30)])
def test_masks_of_any_kind_of_number(tmp_path, dtype, nodata):
    mask = TRUE.astype(dtype)
    if nodata is not None: mask[:5] = nodata
    scene(tmp_path/'s')
    write_raster(tmp_path/'s'/'a_mask.tif', mask, PLACE, nodata=nodata)
    assert found_ha(load_scenes(tmp_path/'s'))==[6.]

def test_a_picture_of_0_and_255_is_warned_of(tmp_path):
    scenes = load_scenes(scene(tmp_path/'s', 255*TRUE))
    with pytest.warns(UserWarning, match='no mine is in the mask.*recode 255 to 1'): evaluate_scenes(BRIGHT, scenes)

HEAD = 'id,site,domain,image,mask\n'
TABLES = {
    'image and mask of another': HEAD+'a,1,fine,a.tif,a_mask.tif\nb,1,fine,a.tif,a_mask.tif\n',
    'does not exist': HEAD+f'a,1,fine,{"x"*300}.tif,\n',
    'leads out of the folder': HEAD+'a,1,fine,/etc/hosts,\n',
    'duplicate ids': HEAD+'a,1,fine,a.tif,\nA,1,fine,a.tif,\n',
    'domain must be there': 'id,site\na,1\n'}

@pytest.mark.parametrize('said', TABLES)
def test_tables_of_scenes_that_cannot_be_meant(tmp_path, said):
    scene(tmp_path/'s')
    (tmp_path/'s'/'scenes.csv').write_text(TABLES[said])
    with pytest.raises(DatasetError, match=said): load_scenes(tmp_path/'s')

@pytest.mark.parametrize('odd', [[], None, 3, b'here', (), 'x'*300])
def test_what_is_no_scene(odd):
    with pytest.raises(RasterError): load_scenes(odd)

def test_a_table_that_another_program_saved(tmp_path):
    "It has nothing where there was an empty text; what lacks a mask is named, and not scored as unknown"
    scene(tmp_path/'s')
    load_scenes(tmp_path/'s').to_csv(tmp_path/'t.csv', index=False)
    table = pd.read_csv(tmp_path/'t.csv')
    assert table['polygons'].isna().all() and found_ha(table)==[6.]
    for nothing in (np.nan, None):
        with pytest.raises(DatasetError, match='have no mask'): evaluate_scenes(BRIGHT, table.assign(mask=nothing))

def test_arrays_that_are_no_map():
    assert match_objects(TRUE[:0], TRUE[:0])['objects_true']==0
    for odd in (TRUE[None], TRUE[0]):
        with pytest.raises(GridError, match='height, width'): match_objects(odd, odd)
    with pytest.raises(OptionError, match='least'): match_objects(TRUE, TRUE, least='1')
    for grid in (None, dict(crs=PLACE.crs), PLACE.part(((0,9), (0,9)))):
        with pytest.raises(GridError, match='grid of the mask was expected'): score_map(TRUE, TRUE, grid)

def test_an_index_that_does_not_say_what_was_trained_on(tmp_path):
    scenes = load_scenes(scene(tmp_path/'s'))
    for odd in (scenes, scenes.assign(split='train').drop(columns='domain'), 'index.csv'):
        with pytest.raises(MineC2FError, match='has no column'): seen_in_training(scenes, odd)
