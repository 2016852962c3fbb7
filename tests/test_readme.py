"""The front page does what it says, and stays short.

Its Python runs, its commands and their parameters exist, its errors are raised, its names and links lead somewhere.
What was measured is in results/README.md, whose names and links are looked at, too."""
import configparser, importlib, inspect, re, shlex, shutil
from fnmatch import fnmatch

import geopandas as gpd, numpy as np, pandas as pd, papermill, pytest, rasterio, yaml

from minec2f import all as everything, data, learner, stac
from minec2f.maps import MAP_BANDS
from minec2f.bundle import save_bundle
from minec2f.chipping import catalog
from minec2f.chips import load_index
from minec2f.cli import COMMANDS, notebook_path
from minec2f.core import MineC2FError
from minec2f.method import methods
from minec2f.models import attentive_fpn
from minec2f.predict import predict_scene
from minec2f.refine import refine_polygons
from minec2f.splits import site_split
from minec2f.synth import synth_dataset
from minec2f.world.archive import synth_archive
from minec2f.world.fileserver import serve

def page(repo, name): return (repo/name).read_text(encoding='utf-8')

@pytest.fixture
def readme(repo): return page(repo, 'README.md')

def blocks(text, language):
    "(line of the file, code) of each block of a language"
    found = re.finditer(rf'^```{language}\n(.*?)^```', text, re.S|re.M)
    return [(text[:o.start(1)].count('\n')+1, o[1]) for o in found]

def prose(text): return re.sub(r'^```.*?^```', '', text, flags=re.S|re.M)

def spans(text):
    "What stands in `code` between the blocks"
    return re.findall(r'`([^`\n]+)`', prose(text))

def rows(text, header):
    "Cells of each row of the table under a header"
    lines = re.search(rf'^\| {re.escape(header)} \|.*\n\|[-| ]+\n((?:\|.*\n)+)', text, re.M)[1].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]

def commands(text):
    "Words of each command, in blocks and in the text"
    lines = [line for _,code in blocks(text, 'sh') for line in code.replace('\\\n', '').splitlines()]
    lines += [o for o in spans(text) if re.match(r'(minec2f|papermill|make|pip|python) ', o)]
    found = [shlex.split(o, comments=True) for o in lines]
    return [words for words in found if words]

PAGE = r"""see `make it`
```python
a = 1
```

```sh
make x # why

papermill a.ipynb \
  b.ipynb -p c "d e"
```
```
`no`
```
| a | b |
|---|---|
| `c` | d |
| | e |

f"""

def test_blocks_are_found():
    assert blocks(PAGE, 'python')==[(3, 'a = 1\n')] and spans(PAGE)==['make it', 'c']
    assert commands(PAGE)==[['make', 'x'], ['papermill', 'a.ipynb', 'b.ipynb', '-p', 'c', 'd e'], ['make', 'it']]
    assert rows(PAGE, 'a')==[['`c`', 'd'], ['', 'e']]

def test_front_page_is_short(readme):
    names = ' '.join(notebooks for _,notebooks in rows(readme, 'part')).split()  # of the notebooks: a list, no prose
    assert len(prose(readme).split())-len(names)<=1200
    assert max(len(line) for _,code in blocks(readme, r'\w*') for line in code.splitlines())<=108

# Python: each block runs as it stands, one after the other. Only defaults are small here, those of networks, windows
# and epochs; and in place of the public archive there is one of the project's own

SMALL = dict(encoder='resnet18', pyramid=16, segmentation=32)

@pytest.fixture
def small(monkeypatch):
    "Networks, windows and epochs are small where README's blocks do not say how large"
    mine_dls, teacher_learner, fit_poly = data.mine_dls, learner.teacher_learner, learner.MineLearner.fit_poly
    def small_dls(*args, **kw): return mine_dls(*args, **{'size': 64, 'bs': 4, **kw})
    def small_learner(dls, **kw): return teacher_learner(dls, **(kw if 'arch' in kw else SMALL | kw))
    def fit_once(self, n_epoch, checkpoint): return fit_poly(self, 1, checkpoint=checkpoint)
    monkeypatch.setattr(data, 'mine_dls', small_dls)
    monkeypatch.setattr(learner, 'teacher_learner', small_learner)
    monkeypatch.setattr(learner.MineLearner, 'fit_poly', fit_once)

@pytest.fixture
def my_data(tmp_path, small):
    "A data set, a bundle, a scene and outlines, by the names that README's blocks give them"
    made = synth_dataset(tmp_path/'my_data', n_coarse=16, n_fine=32, size=64, seed=3)
    index = pd.read_csv(made/'index.csv')
    index.loc[index.index[-8:], 'domain'] = 'unlabelled'
    index.to_csv(made/'index.csv', index=False)
    shutil.copy(next((made/'scenes').glob('*.tif')), tmp_path/'scene.tif')
    with rasterio.open(tmp_path/'scene.tif', 'r+') as f: f.update_tags(date='2024-06-01')
    shutil.copytree(made/'images', tmp_path/'images')
    coarse = data.mine_dls(site_split(load_index(made)), 'coarse', ['B04','B03','B02','B08'])
    save_bundle(tmp_path/'runs'/'mine'/'bundle', learner.teacher_learner(coarse))
    gpd.read_file(next(made.glob('*.gpkg'))).head(6).to_file(tmp_path/'outlines.gpkg')

@pytest.fixture
def my_archive(tmp_path, monkeypatch):
    "In place of a public archive, one of the project's own, with an inventory of mines"
    build = stac.build_coarse_dataset
    dates = '2019-03-12', '2019-07-19'
    archive = synth_archive(tmp_path/'archive', scene_size=384, dates=dates, clouds=(0.,), mines=2)
    outlines = gpd.read_file(archive/'polygons.gpkg').dissolve('ISO3_CODE', as_index=False)
    outlines.set_geometry(outlines.convex_hull.buffer(.004)).to_file(tmp_path/'global_mining_polygons_v2.gpkg')
    with serve(archive) as server:
        def build_here(polygons, name, out, dates, workers):
            assert name in catalog.CATALOGS
            return build(polygons, f'{server.url}/catalog.json', out, dates)
        for module in (stac, everything): monkeypatch.setattr(module, 'build_coarse_dataset', build_here)
        yield

@pytest.fixture
def folder(tmp_path, my_data, my_archive, monkeypatch):
    "The working folder of one who has everything that README's blocks read"
    monkeypatch.chdir(tmp_path)
    return tmp_path

@pytest.mark.filterwarnings('ignore:Geometry is in a geographic CRS')
def test_python_runs(readme, repo, folder):
    names = {}
    for line,code in blocks(readme, 'python'):
        at_its_line = '\n'*(line-1) + code
        exec(compile(at_its_line, repo/'README.md', 'exec'), names)
    for words in commands(readme):
        if words[:2]==['python', '-c']: exec(words[2], {})
    assert len(names['student'].recorder.values)==1
    kept, index = names['kept'], names['index']
    assert len(kept) and kept[['width', 'height']].min().min()>=128
    assert {*index['split']} <= {'train', 'valid', 'test'} and len(index)==len(kept)
    with rasterio.open('map.tif') as f: bands = f.descriptions
    assert set(bands) < set(MAP_BANDS)  # the third is for several models
    mines, refined = gpd.read_file('mines.gpkg'), gpd.read_file('refined.gpkg')
    named = {name for _,field,_ in rows(readme, 'file') for name in spans(field)}
    assert named <= {*MAP_BANDS, *mines.columns, *refined.columns} and len(refined)==6

# Commands

def parameters_of(path): return papermill.inspect_notebook(str(path))

def settings(repo):
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(repo/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

def unknown_parameters(words, repo):
    notebook = next(o for o in words[1:] if not o.startswith('-'))
    if not (repo/notebook).exists(): return [notebook]
    known = parameters_of(repo/notebook)
    return [name for flag,name in zip(words, words[1:]) if flag in ('-p', '-r') and name not in known]

def unknown_options(words, repo):
    "Of `minec2f <command>`"
    if words[1] not in COMMANDS: return words[1:2] if words[1]!='methods' else []
    known = parameters_of(notebook_path(words[1]))
    return [o for o in words[2:] if o.startswith('--') and o!='--help' and o[2:].replace('-', '_') not in known]

def is_in_makefile(word, makefile):
    "A target; or, with a value, a variable"
    name, equals, _ = word.partition('=')
    pattern = rf'^{re.escape(name)}\b ?[?:]?=' if equals else rf'^{re.escape(name)}:'
    return re.search(pattern, makefile, re.M)

def unknown(words, repo):
    "What a command names that is not there"
    if words[0]=='papermill': return unknown_parameters(words, repo)
    if words[0]=='minec2f': return unknown_options(words, repo)
    if words[:2]==['python', '-c']: return []  # it runs where the Python does
    if words[0]=='python': return [o for o in words[1:2] if not (repo/o).exists()]
    if words[0]=='make':
        makefile = (repo/'Makefile').read_text()
        return [o for o in words[1:] if o!='…' and not is_in_makefile(o, makefile)]
    extras = [o for part in re.findall(r'\[(.+?)\]', ' '.join(words)) for o in part.split(',')]
    return [o for o in extras if f'{o}_requirements' not in settings(repo)]

PAGES = ['README.md','results/README.md']

@pytest.mark.parametrize('name', PAGES)
def test_commands_exist(repo, name):
    found = commands(page(repo, name))
    assert {o[0] for o in found} >= {'make', 'papermill', 'python'}
    odd = {' '.join(words): unknown(words, repo) for words in found}
    assert {k: v for k,v in odd.items() if v}=={}

def test_parameters_of_the_notebooks_exist(readme, repo):
    "What the text calls `-p name` is a parameter of training; and of prediction, what only says how images are read"
    named = {o.split()[1] for o in spans(readme) if o.startswith('-p ')}
    train, predict = ({*parameters_of(repo/f'nbs/{o}.ipynb')} for o in ('train','predict'))
    assert named <= train and named & predict=={'band_names','scale','offset'}

@pytest.mark.parametrize('line,odd', [
    ('papermill nbs/train.ipynb x.ipynb -p data a -p no_such 1', ['no_such']),
    ('papermill nbs/no.ipynb x.ipynb', ['nbs/no.ipynb']),
    ('minec2f predict --scene a --no-such 1', ['--no-such']),
    ('minec2f no --help', ['no']),
    ('make no', ['no']),
    ('make lab NO=python3', ['NO=python3']),
    ('make lab PYTHON=python3', []),
    ('python results/no.py a', ['results/no.py']),
    ("pip install -e '.[stac,no]'", ['no']),
    ("pip install -e '.[stac]'", []),
])
def test_unknown_words_are_found(repo, line, odd): assert unknown(shlex.split(line), repo)==odd

# Errors: the quoted text is what the library says

def rewritten(folder, kind, change=lambda x: x, named=True, **other):
    "The images or masks of a folder, as another tool would have written them"
    for path in (folder/kind).glob('*.tif'):
        with rasterio.open(path) as src:
            x = change(src.read())
            profile, names = src.profile, src.descriptions
        with rasterio.open(path, 'w', **profile | dict(dtype=x.dtype) | other) as dst:
            dst.write(x)
            if named: dst.descriptions = names

def from_an_editor(folder): rewritten(folder, 'masks', lambda x: np.where(x==1, 255, 0).astype(np.uint8))
def nameless(folder): rewritten(folder, 'images', named=False)
def fractions(folder): rewritten(folder, 'images', lambda x: (x/1e4).astype(np.float32), nodata=None)
def two_layers(folder): gpd.read_file(folder/'coarse.gpkg').to_file(folder/'coarse.gpkg', layer='roads')
def few_sites(folder):
    index = pd.read_csv(folder/'index.csv')
    is_last = index['id']==index['id'].iloc[-1]
    index[(index['domain']=='coarse') | is_last].to_csv(folder/'index.csv', index=False)

def said(folder):
    bands = ['B04', 'B03', 'B02', 'B08']
    with pytest.raises(MineC2FError) as e: data.mine_dls(site_split(load_index(folder)), 'coarse', bands, size=64, bs=4)
    return str(e.value)

def test_errors_are_quoted_right(readme, tmp_path):
    quoted = [spans(text)[0].replace('…', '*') for text,_ in rows(readme, 'it says')]
    mistakes = [from_an_editor, nameless, fractions, two_layers, few_sites]
    assert len(quoted)==len(mistakes)
    made = synth_dataset(tmp_path/'made', n_coarse=8, n_fine=8, size=64, n_scenes=0, seed=3)
    for text,spoil in zip(quoted, mistakes):
        folder = shutil.copytree(made, tmp_path/spoil.__name__)
        spoil(folder)
        assert fnmatch(said(folder), f'*{text}*'), text

# Names and links

def anchors(text):
    "What a heading is called in a link"
    return {re.sub(r'[^\w -]', '', o.lower()).replace(' ', '-') for o in re.findall(r'^#+ (.+)', prose(text), re.M)}

@pytest.mark.parametrize('name', PAGES)
def test_links_lead_somewhere(repo, name):
    text, home = page(repo, name), (repo/name).parent
    def leads_nowhere(link):
        path, _, anchor = link.partition('#')
        if not (home/path).exists(): return True
        return anchor and anchor not in anchors(page(home, path) if path else text)
    links = [o for o in re.findall(r'\]\(([^)\s]+)', text) if not o.startswith('http')]
    assert len(links)>=4 and [o for o in links if leads_nowhere(o)]==[]
    files = [o for o in spans(text) if re.fullmatch(r'(nbs|results|paper_figures|tests|minec2f)/[\w./]*', o)]
    assert files and [o for o in files if not (repo/o).exists()]==[]

def test_reading_order_is_complete(readme, repo):
    named = {o for o in spans(readme) if re.fullmatch(r'\d\d[a-z]?_\w+', o)}
    assert named=={o.stem for o in repo.glob('nbs/[0-9]*.ipynb')}
    assert {o.stem for o in repo.glob('nbs/[a-z]*.ipynb')} <= {*spans(readme)}

def test_parts_are_those_of_the_site(readme, repo, monkeypatch):
    monkeypatch.syspath_prepend(repo/'docs')
    site = importlib.import_module('pages')
    parts = [o for o in site.PARTS if o.pattern.startswith('nbs')]
    found = [{o.path.stem for o in site.of_part(part, site.notebooks())} for part in parts]
    named = [{*spans(names)} for _,names in rows(readme, 'part')]
    assert sorted(named, key=sorted)==sorted(found, key=sorted)

def parameters(*functions): return {o for f in functions for o in inspect.signature(f).parameters}

def test_names_exist(readme, repo):
    "Methods and options by the names that they have"
    results = page(repo, 'results/README.md')
    assert {o for _,names in rows(results, 'kind') for o in spans(names)}=={*methods().index}
    assert f'# {len(methods())}: ' in readme
    options = re.search(r'is an option by name: ([^.]*)\.', results)[1]
    assert {*spans(options)} <= parameters(learner.c2f_learner, attentive_fpn)
    keywords = {o[:-1] for o in spans(readme) if re.fullmatch(r'\w+=', o)}
    assert {'scale','offset'} <= parameters(data.mine_dls) & parameters(predict_scene) & parameters(refine_polygons)
    assert keywords <= parameters(load_index, data.mine_dls, learner.MineLearner.fit_poly)

def test_citation_is_of_this_version(repo):
    cite, cfg = yaml.safe_load(page(repo, 'CITATION.cff')), settings(repo)
    assert (cite['version'], cite['repository-code'])==(cfg['version'], cfg['git_url'])
