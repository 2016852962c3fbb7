"Whole scenes of real data: found as they are named, measured in hectares although their pixels are degrees."
from types import SimpleNamespace

import geopandas as gpd, numpy as np, pytest, rasterio, shapely, torch
from rasterio import features
from shapely.geometry import shape

from minec2f.chips import load_index, load_scenes
from minec2f.raster import layer_ha
from minec2f.scenescores import evaluate_scenes, seen_in_training, summarize_scenes

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
