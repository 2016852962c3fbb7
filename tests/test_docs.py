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
    assert set(found.values())=={1}, [o for o,n in found.items() if n!=1]
    there = [o for folder in ('nbs','paper_figures') for o in (repo/folder).glob('*.ipynb')]
    assert set(found)=={o.relative_to(repo).as_posix() for o in there}
    assert all(o.title and o.summary for o in docs.notebooks())

def test_a_notebook_page_shows_what_a_reader_wants(docs, pages):
    "Stored outputs all, nbdev's own lines not"
    for nb in docs.notebooks():
        cells = json.loads(pages[docs.place(nb.path)])['cells']
        assert not re.search(r'^(#\||---$)', '\n'.join(map(docs.source_of, cells)), re.M), nb.path
        shown, stored = ([o['outputs'] for o in some if o.get('outputs')] for some in (cells, nb.cells))
        assert shown==stored, nb.path
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
            rows = [re.sub(r'[\\*]', '', r) for r in re.findall(r'^\| \*\*(.+?)\*\* \|', block[1], re.M)]
            if rows!=[p.name for p in parameters(o)]: missing.append(f'{name}.{public}: {rows}')
    assert missing==[]

SOURCE = '''
__all__ = ['LIMIT', 'Box', 'Net', 'area', 'elsewhere']
from dataclasses import dataclass
LIMIT, other = 3, 4 # Most boxes
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
    limit, box, net, area = items
    assert elsewhere==['elsewhere'] and limit.summary=='Most boxes'
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
    found = lambda target: docs.linked(f'see [this]({target}).', 'more/b.md', site)[len('see [this]('):-len(').')]
    assert found('../nbs/a.ipynb')=='../nbs/a.ipynb' and found('../README.md#use-it')=='../index.md#use-it'
    assert found('../setup.py')==docs.on_github('setup.py')
    for o in ('https://e.org/x', 'gone.md', '#x'): assert found(o)==o

def test_llms_txt_names_every_page_and_only_what_exists(docs, pages):
    text, host = pages['llms.txt'], docs.settings()['doc_host'] + docs.settings()['doc_baseurl'] + '/'
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
        return [f'{name[:-2]}.{o.stem}' for o in (repo/'minec2f'/name[:-2]).glob('[!_]*.py')] if name.endswith('/*') else [name]
    return {o: i for i,line in enumerate(drawing.splitlines()) for name in line.split()[1:] for o in modules(name)}

def imported(name, path):
    "Modules of this package that a module imports, wherever in it"
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level: continue
        package = name.split('.')[:-node.level]
        if node.module: yield '.'.join([*package, node.module])
        else: yield from ('.'.join([*package, o.name]) for o in node.names)

def test_modules_import_from_their_layer_and_those_above_it_in_the_drawing(docs, repo):
    level, modules = layers(repo), docs.modules()
    assert {f'minec2f.{o}' for o in level}==set(modules)
    pairs = {(a, b) for a in modules for b in imported(a, modules[a]) if b in modules}
    layer = lambda module: level[module.removeprefix('minec2f.')]
    assert len(pairs)>len(modules) and [(a, b) for a,b in sorted(pairs) if layer(b)>layer(a)]==[]
    TopologicalSorter({o: {b for a,b in pairs if a==o} for o in modules}).prepare() # raises CycleError

def test_the_lesson_in_contributing_runs(repo):
    blocks = re.findall(r'^```python\n(.*?)^```', (repo/'CONTRIBUTING.md').read_text(), re.M|re.S)
    names = dict(np=np, test_eq=test.test_eq)
    for o in blocks: exec(o, names)
    assert len(blocks)==2 and np.isnan(names['share'](np.full((2,2), 255)))

def test_the_citation_is_of_this_version(docs, repo):
    said = dict(re.findall(r'^([\w-]+): (.+)$', (repo/'CITATION.cff').read_text(), re.M))
    cfg = docs.settings()
    assert (said['version'], said['license'], said['repository-code'])==(cfg['version'], 'Apache-2.0', cfg['git_url'])
