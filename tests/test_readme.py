"README.md does what it says: its Python runs, its commands and their parameters exist, its names and links lead somewhere."
import configparser, inspect, re, shlex, shutil
from importlib import import_module

import geopandas as gpd, pandas as pd, papermill, pytest, rasterio
from fastai.learner import Learner

from minec2f import catalog, data, learner, stac
from minec2f.archive import synth_archive
from minec2f.build import build_dataset
from minec2f.chips import load_index
from minec2f.fileserver import serve
from minec2f.method import methods
from minec2f.models import attentive_fpn
from minec2f.predict import predict_scene
from minec2f.refine import refine_polygons
from minec2f.synth import synth_dataset

@pytest.fixture
def readme(repo): return (repo/'README.md').read_text(encoding='utf-8')

def blocks(text, language):
    "(line of the file, code) of each block of a language"
    return [(text[:o.start(1)].count('\n')+1, o[1]) for o in re.finditer(rf'^```{language}\n(.*?)^```', text, re.S|re.M)]

def spans(text):
    "What stands in `code` between the blocks"
    return re.findall(r'`([^`\n]+)`', re.sub(r'^```.*?^```', '', text, flags=re.S|re.M))

def commands(text):
    "Words of each command, in blocks and in the text"
    lines = [l for _,code in blocks(text, 'sh') for l in code.splitlines()] + [o for o in spans(text) if re.match(r'(papermill|make|pip|python) ', o)]
    return [words for words in (shlex.split(l, comments=True) for l in lines) if words]

def test_blocks_are_found():
    text = 'see `make it`\n```python\na = 1\n```\n\n```sh\nmake x # why\n\npapermill a.ipynb b.ipynb -p c "d e"\n```\n```\n`no`\n```\n'
    assert blocks(text, 'python')==[(3, 'a = 1\n')] and spans(text)==['make it']
    assert commands(text)==[['make','x'], ['papermill','a.ipynb','b.ipynb','-p','c','d e'], ['make','it']]

# Python: each block runs as it stands, one after the other. What is small here are only defaults: of networks, windows and epochs; and the public archive is one of the project's own

SMALL = dict(encoder='resnet18', pyramid=16, segmentation=32)

@pytest.fixture
def folder(tmp_path, monkeypatch):
    "The working folder of one who has everything that README's blocks read"
    mine_dls, teacher_learner, build, fit_poly = data.mine_dls, learner.teacher_learner, stac.build_coarse_dataset, Learner.fit_poly
    monkeypatch.setattr(data, 'mine_dls', lambda *args, **kw: mine_dls(*args, **{'size': 64, 'bs': 4, **kw}))
    monkeypatch.setattr(learner, 'teacher_learner', lambda dls, **kw: teacher_learner(dls, **(kw or SMALL)))
    monkeypatch.setattr(Learner, 'fit_poly', lambda self, n_epoch: fit_poly(self, 1))
    monkeypatch.setattr(stac, 'build_coarse_dataset', lambda *args, workers: build(*args))
    made = synth_dataset(tmp_path/'my_data', n_coarse=16, n_fine=32, size=64, seed=3)
    index = pd.read_csv(made/'index.csv')
    index.loc[index.index[-8:], 'domain'] = 'unlabelled'
    index.to_csv(made/'index.csv', index=False)
    shutil.copy(next((made/'scenes').glob('*.tif')), tmp_path/'scene.tif')
    shutil.copytree(made/'images', tmp_path/'images')
    gpd.read_file(next(made.glob('*.gpkg'))).head(6).to_file(tmp_path/'outlines.gpkg')
    archive = synth_archive(tmp_path/'archive', scene_size=384, dates=('2019-03-12','2019-07-19'), clouds=(0.,), mines=2)
    outlines = gpd.read_file(archive/'polygons.gpkg').dissolve('ISO3_CODE', as_index=False)
    outlines.set_geometry(outlines.convex_hull.buffer(.004)).to_file(tmp_path/'global_mining_polygons_v2.gpkg')
    monkeypatch.chdir(tmp_path)
    with serve(archive) as server:
        monkeypatch.setitem(catalog.CATALOGS, 'earth_search', f'{server.url}/catalog.json')
        yield tmp_path

@pytest.mark.filterwarnings('ignore:Geometry is in a geographic CRS')
def test_python_runs(readme, repo, folder):
    names = {}
    for line,code in blocks(readme, 'python'): exec(compile('\n'*(line-1) + code, repo/'README.md', 'exec'), names)
    assert len(names['student'].recorder.values)==1 and len(names['kept']) and names['kept'][['width','height']].min().min()>=128
    assert {*names['index']['split']} <= {'train','valid','test'} and len(names['index'])==len(names['kept'])
    with rasterio.open('map.tif') as f: assert f.descriptions==('class','probability')
    assert {'area_ha','mean_probability'} <= {*gpd.read_file('mines.gpkg').columns} and len(gpd.read_file('refined.gpkg'))==6

# Commands

def parameters_of(path): return papermill.inspect_notebook(str(path))

def unknown(words, repo):
    "What a command names that is not there"
    if words[0]=='papermill':
        notebook = next(o for o in words[1:] if not o.startswith('-'))
        if not (repo/notebook).exists(): return [notebook]
        return [name for flag,name in zip(words, words[1:]) if flag in ('-p','-r') and name not in parameters_of(repo/notebook)]
    if words[0]=='python': return [o for o in words[1:2] if not (repo/o).exists()]
    if words[0]=='make':
        makefile = (repo/'Makefile').read_text()
        return [o for o in words[1:] if not re.search(rf"^{re.escape(o.split('=')[0])}\b ?[?:]?[=:]" if '=' in o else rf'^{re.escape(o)}:', makefile, re.M) and o!='…']
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(repo/'settings.ini', encoding='utf-8')
    return [o for part in re.findall(r'minec2f\[(.+?)\]', ' '.join(words)) for o in part.split(',') if f'{o}_requirements' not in cfg['DEFAULT']]

def test_commands_exist(readme, repo):
    found = commands(readme)
    assert {o[0] for o in found}=={'make','papermill','pip','python'} and sum(o[0]=='papermill' for o in found)>=4
    assert [(' '.join(o), odd) for o in found if (odd := unknown(o, repo))]==[]

def test_parameters_of_the_notebooks_exist(readme, repo):
    "What the text calls `-p name` is a parameter of training and of prediction"
    named = {o.split()[1] for o in spans(readme) if o.startswith('-p ')}
    assert named and all(named <= {*parameters_of(repo/f'nbs/{o}.ipynb')} for o in ('train','predict'))

@pytest.mark.parametrize('line,odd', [('papermill nbs/train.ipynb x.ipynb -p data a -p no_such 1', ['no_such']), ('papermill nbs/no.ipynb x.ipynb', ['nbs/no.ipynb']), ('make no', ['no']),
    ('make lab PYTHON=python3', []), ('python results/no.py a', ['results/no.py']), ("pip install 'minec2f[stac,no]'", ['no']), ("pip install 'minec2f[stac]'", [])])
def test_unknown_words_are_found(repo, line, odd): assert unknown(shlex.split(line), repo)==odd

# Names and links

def test_links_lead_somewhere(readme, repo):
    links = [o for o in re.findall(r'\]\(([^)#\s]+)', readme) if not o.startswith('http')]
    assert len(links)>=4 and [o for o in links if not (repo/o).exists()]==[]
    files = [o for o in spans(readme) if re.fullmatch(r'(nbs|results|paper_figures|tests|minec2f)/[\w./]*', o)]
    assert files and [o for o in files if not (repo/o).exists()]==[]

def test_reading_order_is_complete(readme, repo):
    named = {o for o in spans(readme) if re.fullmatch(r'\d\d[a-z]?_\w+', o)}
    assert named=={o.stem for o in repo.glob('nbs/[0-9]*.ipynb')}
    assert {o.stem for o in repo.glob('nbs/[a-z]*.ipynb')} <= {*spans(readme)}

def parameters(*functions): return {o for f in functions for o in inspect.signature(f).parameters}

def test_names_exist(readme):
    "Modules, methods and options by the names that they have"
    for o in re.findall(r'`minec2f\.([\w.]+)`', readme):
        module, *names = o.split('.')
        assert all(hasattr(import_module(f'minec2f.{module}'), name) for name in names), o
    known = {*methods().index}
    rows = re.search(r'\| kind \|.*?\n\n', readme, re.S)[0]
    assert {o for o in spans(rows) if not o.endswith('=')}==known
    options = re.search(r'is an option by name: ([^.]*)\.', readme)[1]
    assert {*spans(options)} <= parameters(learner.c2f_learner, attentive_fpn)
    keywords = {o[:-1] for o in spans(readme) if re.fullmatch(r'\w+=', o)}
    assert keywords-{'method'} <= parameters(load_index, data.mine_dls, predict_scene, refine_polygons, stac.build_coarse_dataset, build_dataset) and 'method' in parameters(learner.c2f_learner)
