"Files from strangers: nothing in them is run, nothing outside is read, nothing waits for ever."
import json, os, pickle, shutil, socket, stat, time
from hashlib import sha256
from types import SimpleNamespace

import numpy as np, pytest, torch

from fuzz import small_bundle, write_tiff
from minec2f.bundle import CARD, WEIGHTS, load_bundle, read_card, save_bundle
from minec2f.chips import load_index
from minec2f.core import *
from minec2f.pretrained import read_state
from minec2f.predict import predict_scene
from minec2f.raster import read_chip, read_grid, read_polygons

PIXELS = np.arange(2*40*40, dtype=np.uint16).reshape(2, 40, 40)+1
NAMES = 'B04', 'B08'

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bundle')/'good'
    small_bundle(folder)
    return folder

def edited(folder, dst, part=None, **values):
    "A copy of a bundle with other values in its page"
    shutil.copytree(folder, dst)
    page = json.loads((dst/CARD).read_text())
    (page[part] if part else page).update(values)
    (dst/CARD).write_text(json.dumps(page))
    return dst

def dataset(folder, *ids):
    for o in ('images','masks'): (folder/o).mkdir(parents=True)
    write_tiff(folder/'images/a.tif', PIXELS, NAMES)
    write_tiff(folder/'masks/a.tif', (PIXELS[:1]%2).astype(np.uint8), ('label',))
    rows = [f'"{o}",{k},fine\n' for k,o in enumerate(ids)]
    (folder/'index.csv').write_text('id,site,domain\n' + ''.join(rows))
    return folder

# Bundles

class Bomb:
    "What a pickle could do"
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return os.mkdir, (self.path,)

@pytest.mark.parametrize('dump', [pickle.dump, torch.save])
def test_pickles_are_not_run(bundle, tmp_path, dump):
    bomb, fake = tmp_path/'bomb', tmp_path/'fake.pth'
    with open(fake, 'wb') as f: dump(dict(a=Bomb(bomb)), f)
    bad = edited(bundle, tmp_path/'bad', weights_sha256=sha256(fake.read_bytes()).hexdigest())
    shutil.copy(fake, bad/WEIGHTS)
    with pytest.raises(BundleError, match='cannot be read as weights'): load_bundle(bad)
    with pytest.raises(WeightsError): read_state(fake)
    assert not bomb.exists()

@pytest.mark.parametrize('part,values', [
    ('model', dict(encoder='tu-hf-hub:somebody/model')),
    ('model', dict(encoder='hf-hub:somebody/model')),
    ('model', dict(encoder='tu-local-dir:/etc')),
    ('model', dict(encoder='tu-resnet18.no_such_tag')),
    ('model', dict(weights='imagenet')),
    ('model', dict(arch='../arch')),
    ('input', dict(classes=['background', '<img src=http://127.0.0.1/>'])),
])
def test_a_page_never_leads_elsewhere(bundle, tmp_path, monkeypatch, part, values):
    def call(*args): pytest.fail('the network was asked')
    for o in ('connect', 'connect_ex'): monkeypatch.setattr(socket.socket, o, call)
    monkeypatch.setattr(socket, 'getaddrinfo', call)
    start = time.monotonic()
    with pytest.raises(BundleError): load_bundle(edited(bundle, tmp_path/'bad', part, **values))
    assert time.monotonic()-start<5

def test_bundle_of_an_older_version(bundle, tmp_path):
    "Written before there was a marker in the folder, before files were believed and before there was a choice of norm"
    old = edited(bundle, tmp_path/'old')
    page = json.loads((old/CARD).read_text())
    page['input'].pop('trust_files', None)
    assert page['model'].pop('norm')=='group'
    (old/CARD).write_text(json.dumps(page))
    (old/MARKER).unlink()
    x = torch.randn(1,4,64,64)
    with torch.no_grad(): assert torch.equal(load_bundle(old).model(x), load_bundle(bundle).model(x))

def test_others_may_read_a_bundle_and_only_a_bundle_is_replaced(bundle, tmp_path):
    b = load_bundle(bundle)
    learn = SimpleNamespace(model=b.model, dls=SimpleNamespace(spec=b.spec))
    (tmp_path/'new').touch()
    usual = stat.S_IMODE((tmp_path/'new').stat().st_mode)
    for _ in range(2): save_bundle(tmp_path/'b', learn)
    assert {stat.S_IMODE((tmp_path/'b'/o).stat().st_mode) for o in (CARD, WEIGHTS)}=={usual}
    (tmp_path/'b/thesis.txt').write_text('years of work')
    with pytest.raises(WriteError, match='thesis.txt'): save_bundle(tmp_path/'b', learn)
    with pytest.raises(WriteError): save_bundle(tmp_path/'b/thesis.txt', learn)
    assert read_card(tmp_path/'b') and (tmp_path/'b/thesis.txt').read_text()=='years of work'

# Images, outlines, tables

@pytest.mark.parametrize('name', ['../secret/a', 'images/../../secret/a', '{outside}', 'a\nb', 'a\0', '.', '..', ' '])
def test_an_id_is_a_plain_name(tmp_path, name):
    outside = write_tiff(tmp_path/'a.tif', PIXELS, NAMES)
    (tmp_path/'secret').mkdir()
    shutil.copy(outside, tmp_path/'secret/a.tif')
    folder = dataset(tmp_path/'data', 'a', name.format(outside=outside.with_suffix('')))
    with pytest.raises(DatasetError): load_index(folder)

def test_a_link_in_disguise_is_not_followed(tmp_path):
    write_tiff(tmp_path/'secret.tif', PIXELS, NAMES)
    link = f"""<VRTDataset rasterXSize="40" rasterYSize="40"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
        <SourceFilename>{tmp_path}/secret.tif</SourceFilename><SourceBand>1</SourceBand>
        </SimpleSource></VRTRasterBand></VRTDataset>"""
    for o in ('image.tif', 'image.jp2', 'image.vrt'): (tmp_path/o).write_text(link)
    for o in ('image.tif', 'image.jp2'):
        for f in (read_chip, read_grid):
            with pytest.raises(RasterError, match='Rename it to .vrt if you trust it'): f(tmp_path/o)
    assert (read_chip(tmp_path/'image.vrt')[0][0]==PIXELS[0]).all()
    (tmp_path/'outlines.gpkg').write_text(f'''<OGRVRTDataSource><OGRVRTLayer name="x">
        <SrcDataSource>{tmp_path}/x.shp</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>''')
    with pytest.raises(PolygonError): read_polygons(tmp_path/'outlines.gpkg')

def test_a_pipe_does_not_wait(bundle, tmp_path):
    "Nobody ever writes into these"
    start = time.monotonic()
    for o in ('image.tif', 'outlines.gpkg'): os.mkfifo(tmp_path/o)
    with pytest.raises(RasterError, match='no regular file'): read_chip(tmp_path/'image.tif')
    with pytest.raises(RasterError, match='no regular file'):
        predict_scene(load_bundle(bundle), tmp_path/'image.tif', tmp_path/'map.tif', progress=False)
    with pytest.raises(PolygonError): read_polygons(tmp_path/'outlines.gpkg')
    folder = dataset(tmp_path/'data', 'a', 'b')
    os.mkfifo(folder/'images/b.tif')
    with pytest.raises(MineC2FError): load_index(folder)
    (folder/'index.csv').unlink()
    os.mkfifo(folder/'index.csv')
    with pytest.raises(DatasetError): load_index(folder)
    for o in (CARD, WEIGHTS):
        bad = edited(bundle, tmp_path/f'with {o}')
        (bad/o).unlink()
        os.mkfifo(bad/o)
        with pytest.raises(BundleError): load_bundle(bad)
    assert time.monotonic()-start<20
