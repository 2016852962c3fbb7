"Folders as other tools leave them, and tables as accidents leave them: loaded rightly, or refused by name"
import random, warnings

import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio
from affine import Affine
from PIL import Image
from shapely.geometry import box

from minec2f.chips import load_index, read_label, read_sample
from minec2f.core import IGNORE, CRSError, DatasetError, LabelError, MineC2FError, PolygonError, SplitError
from minec2f.data import mine_dls
from minec2f.raster import read_grid
from minec2f.splits import assert_no_leak, site_split

BANDS = ['B02','B03','B04','B08']

def write(path, x, k, names=None, moved=0., **options): # (C,H,W) at place number k; places are 42 km apart
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = x.shape
    corner = Affine(10, 0, 500000+30000*k+moved, 0, -10, 5000000-30000*k)
    usual = dict(driver='GTiff', count=count, dtype=x.dtype, height=height, width=width, crs='EPSG:32633',
                 transform=corner)
    with rasterio.open(path, 'w', **(usual | options)) as f:
        f.write(x)
        if names: f.descriptions = names

def write_image(path, k=0, **options):
    x = np.random.default_rng(k).integers(300, 4000, (4,64,64)).astype('uint16')
    write(path, x, k, BANDS, **options)

def write_mask(path, y, k=0, **options): # (H,W) or (C,H,W)
    write(path, y.reshape(-1, *y.shape[-2:]), k, **options)

def square(value=1, n=64, dtype='uint8'):
    y = np.zeros((n,n), dtype)
    y[16:48, 20:50] = value
    return y

def fine_folder(root, n=6, mask=lambda k: square(), **columns):
    for k in range(n):
        write_image(root/'images'/f'c{k}.tif', k)
        write_mask(root/'masks'/f'c{k}.tif', mask(k), k)
    ids, sites = [f'c{k}' for k in range(n)], [f's{k}' for k in range(n)]
    table = pd.DataFrame(dict(id=ids, site=sites, domain='fine') | columns)
    table.to_csv(root/'index.csv', index=False)
    return root

def add_chip(root, id, site, moved=0.):
    "One more chip in the place of the first, or `moved` metres to the east of it"
    write_image(root/'images'/f'{id}.tif', 0, moved=moved)
    write_mask(root/'masks'/f'{id}.tif', square(), 0, moved=moved)
    table = pd.read_csv(root/'index.csv')
    more = pd.DataFrame(dict(id=[id], site=site, domain='fine'))
    pd.concat([table, more]).to_csv(root/'index.csv', index=False)

def coarse_folder(root, shapes):
    write_image(root/'images'/'c0.tif')
    pd.DataFrame(dict(id=['c0'], site='s', domain='coarse')).to_csv(root/'index.csv', index=False)
    gpd.GeoDataFrame(geometry=shapes, crs=32633).to_file(root/'outlines.gpkg', layer='mines')
    return root

@pytest.mark.parametrize('change, said', [
    (lambda k: square(255), 'recode 255 to 1'),
    (lambda k: square(0), 'hold 0 only'),
    (lambda k: np.full((64,64), 255, 'uint8'), 'hold 255 only'),
    (lambda k: np.stack([1-square(), square()]), 'a band for each class'),
    (lambda k: np.stack([square(200), square(30), square(30)]), 'has 3 bands'),
    (lambda k: square(-1, dtype='int16'), 'value(s) -1'),
    (lambda k: square(.7, dtype='float32'), 'value(s) 0.7')])
def test_masks_of_another_kind_are_named(tmp_path, change, said):
    with pytest.raises(LabelError, match='.') as e: load_index(fine_folder(tmp_path, mask=change))
    assert said in str(e.value)

def test_mask_values_beyond_the_classes_are_named_before_training(tmp_path):
    index = site_split(load_index(fine_folder(tmp_path, mask=lambda k: square(2))), valid=.3, test=.3)
    with pytest.raises(LabelError, match=r'value\(s\) 2; allowed are 0-1'): mine_dls(index, 'fine', BANDS, size=64)
    mine_dls(index, 'fine', BANDS, size=64, classes=('background','pit','dump'))

def test_one_annotator_of_two_wrote_255(tmp_path):
    index = load_index(fine_folder(tmp_path, mask=lambda k: square(255 if k%2 else 1)))
    index = index.assign(split=['train']*4+['valid']*2)
    with pytest.warns(UserWarning, match='3 of 6 fine masks hold 255 and no mine: c1, c3, c5'):
        mine_dls(index, 'fine', BANDS, size=64)

def test_masks_drawn_with_pillow(tmp_path):
    "A picture has no place on Earth; the advice of the message gives it one"
    root = fine_folder(tmp_path, n=1)
    Image.fromarray(square()).save(root/'masks'/'c0.tif')
    with pytest.raises(CRSError, match='rio edit-info .*c0.tif --like .*c0.tif') as e: load_index(root)
    from rasterio.rio.main import main_group
    from click.testing import CliRunner
    command = str(e.value).split('(rio ')[1].split(').')[0]
    assert CliRunner().invoke(main_group, command.split()).exit_code==0
    assert (read_label(load_index(root).iloc[0], None)==square()).all()

def test_masks_burned_with_nodata(tmp_path):
    "gdal_rasterize -a_nodata 0 and the like declare the background to be nothing; other values mean that nobody looked"
    root = fine_folder(tmp_path, n=1)
    write_mask(root/'masks'/'c0.tif', square(), nodata=0)
    assert (read_label(load_index(root).iloc[0], None)==square()).all()

    unseen = square()
    unseen[:, :9] = 90
    write_mask(root/'masks'/'c0.tif', unseen, nodata=90)
    y = read_label(load_index(root).iloc[0], None)
    assert (y[:, :9]==IGNORE).all() and (y[:, 9:]==square()[:, 9:]).all()

def test_images_of_other_formats_and_places(tmp_path):
    write_image(tmp_path/'images'/'a.TIFF', 0)
    write_image(tmp_path/'images'/'north'/'007.jp2', 1, driver='JP2OpenJPEG', QUALITY=100, REVERSIBLE='YES')
    write_image(tmp_path/'scenes'/'summer 2021.tif', 2)
    for k,path in enumerate(['masks/a.tif','masks/north/007.tif','drawn.tif']): write_mask(tmp_path/path, square(), k)
    lines = ['id;site;domain;image;mask',
             'a;1;fine;;',
             'north/007;2;fine;;',
             'c;3;fine;scenes/summer 2021.tif;drawn.tif']
    (tmp_path/'index.csv').write_bytes('\r\n'.join([*lines, '']).encode('utf-16'))
    index = load_index(tmp_path)
    assert [o.rsplit('/', 1)[1] for o in index['image']]==['a.TIFF', '007.jp2', 'summer 2021.tif']
    assert all((read_sample(row)[1]==square()).all() for _,row in index.iterrows())

@pytest.mark.parametrize('path', ['/etc/hostname', '../drawn.tif'])
def test_files_outside_the_folder_are_refused(tmp_path, path):
    root = tmp_path/'data'
    write_image(root/'images'/'a.tif')
    write_mask(tmp_path/'drawn.tif', square())
    (root/'index.csv').write_text(f'id,site,domain,mask\na,1,fine,{path}\n')
    with pytest.raises(DatasetError): load_index(root)

def test_one_image_under_two_ids_is_never_divided(tmp_path):
    "Whatever the table says of their places: these come from the images"
    root = fine_folder(tmp_path, n=5)
    add_chip(root, 'twin', 'other')
    index = load_index(root)
    for seed in range(12):
        split = site_split(index, buffer_km=0, seed=seed).set_index('id')['split']
        assert split['twin']==split['c0']
    own = index.assign(split=['train']*4+['valid']*2)
    with pytest.raises(SplitError, match='c0 .train. and twin .valid.'): mine_dls(own, 'fine', BANDS, size=64)

def test_overlapping_chips_without_sizes_in_the_table(tmp_path):
    root = fine_folder(tmp_path, n=4)
    add_chip(root, 'beside', 'x', moved=400.)
    index = load_index(root)
    assert np.allclose(index['res_m'], 10)
    own = index.assign(split=['train']*4+['test'])
    with pytest.raises(SplitError, match='closer than 0 km'): assert_no_leak(own, buffer_km=0)

def test_small_outlines_are_drawn(tmp_path):
    pond, ditch = box(500041,4999921,500044,4999924), box(500101,4999781,500300,4999784)
    index = load_index(coarse_folder(tmp_path, [pond, ditch]))
    y = read_label(index.iloc[0], read_grid(tmp_path/'images'/'c0.tif'))
    assert y.sum()==21

def test_outlines_elsewhere_are_named(tmp_path):
    with pytest.raises(PolygonError, match='lies on any'): load_index(coarse_folder(tmp_path/'far', [box(0,0,1,1)]))
    around = box(499000,4990000,510000,5010000).difference(box(499900,4999000,500900,5000100))
    with pytest.raises(LabelError, match='coarse labels hold 0 only'):
        load_index(coarse_folder(tmp_path/'around', [around]))

def test_cut_off_images_are_found_before_training(tmp_path):
    root = fine_folder(tmp_path, n=2)
    path = root/'images'/'c1.tif'
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(MineC2FError, match='c1.tif cannot be read'): load_index(root)

ODD = [b',', b';', b'"', b'\n', b'\r', b'\0', b'\t', b'nan', b'1e999', b'..', b'/', b'\xff\xfe', b'=1+1', b'-']

def damaged(raw, rng):
    "A file after an accident"
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 2)):
        at, what = rng.randrange(len(raw) or 1), rng.randrange(6)
        if what==0 and raw: raw[at] = rng.randrange(256)
        if what==1: del raw[at:at+rng.randint(1, 20)]
        if what==2: raw[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        if what==3: raw[at:at] = rng.choice(ODD)
        if what==4: raw[at:at] = raw[:rng.randint(1, 60)]
        if what==5: raw = raw[:at]
    return bytes(raw)

def test_damaged_tables_are_read_or_named(tmp_path):
    root = fine_folder(tmp_path, n=3, lon=[15, 15.38, 15.77], lat=[45.15, 44.88, 44.6], split=['train','valid','test'],
                       country=['NA','ZA','CL'])
    raw, rng = (root/'index.csv').read_bytes(), random.Random(0)
    loaded = 0
    for _ in range(250):
        (root/'index.csv').write_bytes(damaged(raw, rng))
        try: index = load_index(root)
        except MineC2FError: continue
        loaded += 1
        assert set(index['id'])<={'c0','c1','c2'}
        assert all((read_label(row, None)==square()).all() for _,row in index.iterrows())
    assert 10<loaded<240

def test_splits_made_by_hand_with_words_of_another_case(tmp_path):
    index = load_index(fine_folder(tmp_path, split=['Train','train ','TRAIN','train','Valid','test']))
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        dls = mine_dls(index, 'fine', BANDS, size=64, bs=2)
    assert len(dls.train_ds)==4 and len(dls.valid_ds)==1
