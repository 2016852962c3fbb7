"The pages of the documentation site are complete. (`make docs` builds the site itself, every warning an error.)"
import ast, importlib, inspect, json, re, sys
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np, pytest
from fastcore import test

@pytest.fixture(scope='module')
def docs():
    folder = str(Path(__file__).resolve().parent.parent/'docs')
    sys.path.insert(0, folder)
    yield importlib.import_module('pages')
    sys.path.remove(folder)

@pytest.fixture(scope='module')
def pages(docs): return docs.pages()

def test_every_notebook_is_in_one_part_of_the_story(docs, repo):
    found = {docs.place(o.path): len(docs.parts_of(o)) for o in docs.notebooks()}
    assert {o: n for o,n in found.items() if n!=1}=={}
    there = [*repo.glob('nbs/*.ipynb'), *repo.glob('paper_figures/*.ipynb')]
    assert set(found)=={o.relative_to(repo).as_posix() for o in there}
    assert all(o.title and o.summary for o in docs.notebooks())

def outputs(cells): return [o['outputs'] for o in cells if o.get('outputs')]

def test_a_notebook_page_shows_what_a_reader_wants(docs, pages):
    "Stored outputs all, nbdev's own lines not"
    for nb in docs.notebooks():
        cells = json.loads(pages[docs.place(nb.path)])['cells']
        text = '\n'.join(docs.source_of(o) for o in cells)
        assert not re.search(r'^(#\||---$)', text, re.M), nb.path
        assert outputs(cells)==outputs(nb.cells), nb.path
        assert not nb.module or f'(../api/{nb.module}.md)' in docs.source_of(cells[0]), nb.path

def parameters(o):
    try: return [p for p in inspect.signature(o).parameters.values() if p.name not in ('self','cls')]
    except (TypeError, ValueError): return []

def test_every_public_name_is_in_the_reference_with_its_parameters(docs, pages):
    "Python's own view of the imported package, held against pages that were made without importing it"
    missing = []
    for name in docs.modules():
        module, page = importlib.import_module(name), pages[f'api/{name}.md']
        for public in getattr(module, '__all__', []):
            block = re.search(rf'^:::::{{py:\w+}} {public}\b(.*?)^:::::$', page, re.M|re.S)
            if block is None and f'`{public}`' not in page: missing.append(f'{name}.{public}')
            o = getattr(module, public)
            if block is None or not inspect.isfunction(o) or hasattr(o, '__delwrap__'): continue
            told = told_parameters(block[1])
            if told!=[p.name for p in parameters(o)]: missing.append(f'{name}.{public}: {told}')
    assert missing==[]

def told_parameters(block):
    "Names in the first column of its table"
    return [re.sub(r'[\\*]', '', o) for o in re.findall(r'^\| \*\*(.+?)\*\* \|', block, re.M)]

SOURCE = '''
__all__ = ['LIMIT', 'MOST', 'Box', 'Net', 'area', 'elsewhere']
from dataclasses import dataclass

# %% this is a cell's
LIMIT, other = 3, 4 # Most boxes
# More of them
# do not fit
MOST = {}
MOST['boxes'] = 9
@dataclass
class Box:
    "Where it is"
    width:float # Metres
    height:float=1. # Metres, a|b
class Net(Base):
    "A network"
    def __init__(self, depth:int=2): # of layers
        self.depth = depth
    def forward(self,
        x, # (B,C,H,W) in 0-1
    ): # (B,K,H,W)
        "Logits"
@patch
def crop(self:Net, *parts, by=None, # Pixels
): "Cut off"
def area(
    box:Box=Box(1),   # `None` is *not* allowed
    **options, # Of nothing
)->float: # m2; raises `ValueError`
    "How large"
def _hidden(): pass
'''

def test_the_reference_reads_each_kind_of_definition(docs, tmp_path):
    (tmp_path/'m.py').write_text(SOURCE)
    items, elsewhere = docs.read_module(tmp_path/'m.py')
    limit, most, box, net, area = items
    assert elsewhere==['elsewhere'] and limit.summary=='Most boxes' and most.summary=='More of them do not fit'
    assert box.signature=='(width, height=1.0)' and box.rows[1]==('height', 'float', '1.0', 'Metres, a|b')
    assert net.signature=='(depth=2)' and net.bases==('Base',)
    assert [(o.name, o.signature) for o in net.parts]==[('Net.forward', '(x)'), ('Net.crop', '(*parts, by=None)')]
    assert net.parts[0].rows[0][3]=='(B,C,H,W) in 0-1' and net.parts[0].returns==('', '(B,K,H,W)')
    assert net.parts[1].rows==(('*parts', '', '', ''), ('by', '', 'None', 'Pixels'))
    text = '\n'.join(docs.block(area))
    assert r'| **box** | `Box` | `Box(1)` | `None` is \*not\* allowed |' in text
    assert r'| **\*\*options** |  |  | Of nothing |' in text and '**Returns** `float`: m2; raises `ValueError`' in text
    assert r'| **height** | `float` | `1.0` | Metres, a\|b |' in docs.block(box)

def test_links_between_files_lead_to_pages_and_the_rest_to_the_repository(docs):
    site = {'README.md': 'index.md', 'nbs/a.ipynb': 'nbs/a.ipynb', 'more/b.md': 'more/b.md'}
    def goal(target):
        link = docs.linked(f'[this]({target})', 'more/b.md', site)
        return link.removeprefix('[this](').removesuffix(')')
    assert goal('../nbs/a.ipynb')=='../nbs/a.ipynb'
    assert goal('../README.md#use-it')=='../index.md#use-it'
    assert goal('../setup.py')==docs.on_github('setup.py')
    for o in ('https://e.org/x', 'gone.md', '#x'): assert goal(o)==o

def test_llms_txt_names_every_page_and_only_what_exists(docs, pages):
    text = pages['llms.txt']
    host = docs.settings()['doc_host'] + docs.settings()['doc_baseurl'] + '/'
    linked = {o.removeprefix(host).removesuffix('.html') for o in re.findall(r'\]\((\S+)\)', text)}
    named = [o for o in pages if re.match('nbs/|paper_figures/.*ipynb|api/(?!index)|index', o)]
    made = {re.sub(r'\.(md|ipynb)$', '', o) for o in named}
    assert linked==made
    for module, name in re.findall(r'`(minec2f\.\w+)\.(\w+)`', docs.ENTRIES):
        assert hasattr(importlib.import_module(module), name)

def layers(repo):
    "Module -> its line in the drawing of CONTRIBUTING.md"
    drawing = re.search(r'^## Layers.*?^```\n(.*?)^```', (repo/'CONTRIBUTING.md').read_text(), re.M|re.S)[1]
    def modules(name): # `wing/*` stands for all of them
        wing, star, _ = name.partition('/*')
        return [f'{wing}.{o.stem}' for o in (repo/'minec2f'/wing).glob('[!_]*.py')] if star else [name]
    found = {}
    for i,line in enumerate(drawing.splitlines()):
        _, *names = line.split()
        for name in names: found |= {o: i for o in modules(name)}
    return found

def imported(name, path):
    "Modules of this package that a module imports, wherever in it"
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level: continue
        package = name.split('.')[:-node.level]
        if node.module: yield '.'.join([*package, node.module])
        else: yield from ('.'.join([*package, o.name]) for o in node.names)

def test_modules_import_from_their_layer_and_those_above_it_in_the_drawing(docs, repo):
    layer = {f'minec2f.{o}': i for o,i in layers(repo).items()}
    modules = docs.modules()
    assert set(layer)==set(modules)
    needs = {o: {b for b in imported(o, path) if b in modules} for o,path in modules.items()}
    assert sum(map(len, needs.values()))>len(modules)
    assert [(o, b) for o,below in needs.items() for b in below if layer[b]>layer[o]]==[]
    TopologicalSorter(needs).prepare() # raises CycleError

def test_the_lesson_in_contributing_runs(repo):
    blocks = re.findall(r'^```python\n(.*?)^```', (repo/'CONTRIBUTING.md').read_text(), re.M|re.S)
    names = dict(np=np, test_eq=test.test_eq)
    for o in blocks: exec(o, names)
    assert len(blocks)==2 and np.isnan(names['share'](np.full((2,2), 255)))

def test_the_citation_is_of_this_version(docs, repo):
    said = dict(re.findall(r'^([\w-]+): (.+)$', (repo/'CITATION.cff').read_text(), re.M))
    cfg = docs.settings()
    assert (said['version'], said['license'], said['repository-code'])==(cfg['version'], 'Apache-2.0', cfg['git_url'])
