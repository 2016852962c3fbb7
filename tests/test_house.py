"Rules of the house that no reader should have to check: names, notebooks, imports. (Line length and dead names: ruff.)"
import ast, builtins, json, keyword, re
from collections import Counter

import pytest

STARS = {'core', 'bands', 'raster', 'method'} # modules whose names everything uses
MOST_KB = 300                                # of a notebook with its stored pictures

@pytest.fixture
def notebooks(repo):
    paths = [*repo.glob('nbs/*.ipynb'), *repo.glob('paper_figures/*.ipynb')]
    return {o.relative_to(repo).as_posix(): json.loads(o.read_text(encoding='utf-8'))['cells'] for o in sorted(paths)}

def source(cell): return ''.join(cell['source'])
def is_export(cell): return cell['cell_type']=='code' and '#| export' in source(cell)

def test_no_name_is_exported_twice(repo):
    homes = {}
    for path in (repo/'minec2f').rglob('[!_]*.py'):
        found = re.search(r'^__all__ = (\[.*?\])', path.read_text(encoding='utf-8'), re.M|re.S)
        for name in ast.literal_eval(found[1]) if found else []: homes.setdefault(name, []).append(path.stem)
    assert len(homes)>200 and {k: v for k,v in homes.items() if len(v)>1}=={}

def test_stars_are_imported_from_few_modules(notebooks):
    wanted = re.compile(r'^\s*from minec2f\.([\w.]+) import \*', re.M)
    stars = {(path, o) for path,cells in notebooks.items() for c in cells for o in wanted.findall(source(c))}
    assert {o for o in stars if o[1] not in STARS}==set()

def test_notebooks_are_small(repo, notebooks):
    large = {o: (repo/o).stat().st_size//1024 for o in notebooks if (repo/o).stat().st_size>1024*MOST_KB}
    assert large=={}, 'draw fewer pixels: smaller figures, fewer panels'

def test_something_runs_after_each_idea(notebooks):
    "No more than two cells of definitions follow each other (a cell of imports defines nothing)"
    def defines(cell): return is_export(cell) and re.search(r'^(@|def |class |\w.* = )', source(cell), re.M)
    rows = {}
    for path,cells in notebooks.items():
        kinds = ''.join('d' if defines(o) else 'r' for o in cells if o['cell_type']=='code')
        if 'ddd' in kinds: rows[path] = max(map(len, re.findall('d+', kinds)))
    assert rows=={}

def words_of_code(repo, notebooks):
    "Every identifier in the project's code, and every word in its strings"
    texts = [o.read_text(encoding='utf-8') for folder in ('minec2f', 'tests', 'docs', 'results') for o in (repo/folder).rglob('*.py')]
    texts += [source(c) for cells in notebooks.values() for c in cells if c['cell_type']=='code']
    texts += [(repo/o).read_text(encoding='utf-8') for o in ('settings.ini', 'pyproject.toml', 'Makefile')]
    return {word for text in texts for word in re.findall(r'\w+', text)}

def named_in_prose(text):
    "Names between backticks: `name`, `module.name`, `name()`; not code, commands or file names"
    prose = re.sub(r'```.*?```', '', text, flags=re.S)
    for o in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose):
        if re.fullmatch(r'[A-Za-z_][\w.]*(\(\))?', o): yield from o.removesuffix('()').split('.')

def test_every_name_in_prose_exists(repo, notebooks):
    known = words_of_code(repo, notebooks) | set(dir(builtins)) | set(keyword.kwlist)
    texts = {o: '\n'.join(source(c) for c in cells if c['cell_type']=='markdown') for o,cells in notebooks.items()}
    texts |= {o: (repo/o).read_text(encoding='utf-8') for o in ('README.md', 'CONTRIBUTING.md', 'results/README.md')}
    unknown = {path: Counter(o for o in named_in_prose(text) if o not in known) for path,text in texts.items()}
    assert {k: sorted(v) for k,v in unknown.items() if v}=={}
