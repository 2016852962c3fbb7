"Rules of the house that no reader should have to check: names, notebooks, imports. (Line length and dead names: ruff.)"
import ast, builtins, json, keyword, re, sys
from collections import Counter
from importlib import import_module

import pytest

STARS = {'core', 'bands', 'raster', 'method'} # modules whose names everything uses
MOST_KB = 300                                # of a notebook with its stored pictures

@pytest.fixture
def notebooks(repo):
    paths = [*repo.glob('nbs/*.ipynb'), *repo.glob('paper_figures/*.ipynb')]
    return {o.relative_to(repo).as_posix(): json.loads(o.read_text(encoding='utf-8'))['cells'] for o in sorted(paths)}

MOVED = dict(mine_encoder=['encoders','models'], InputSpec=['data','inputs'])  # can be had from where it was, too

def source(cell): return ''.join(cell['source'])
def is_export(cell): return cell['cell_type']=='code' and '#| export' in source(cell)

def test_no_name_is_exported_twice(repo):
    homes = {}
    for path in (repo/'minec2f').rglob('[!_]*.py'):
        found = re.search(r'^__all__ = (\[.*?\])', path.read_text(encoding='utf-8'), re.M|re.S)
        for name in ast.literal_eval(found[1]) if found else []: homes.setdefault(name, []).append(path.stem)
    twice = {k: sorted(v) for k,v in homes.items() if len(v)>1}
    assert len(homes)>200 and twice==MOVED

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

def test_links_between_notebooks_lead_somewhere(repo, notebooks):
    def links(cells):
        texts = [source(o) for o in cells if o['cell_type']=='markdown']
        return [o.partition('#')[0] for o in re.findall(r'\]\(([^)\s]+)\)', '\n'.join(texts)) if ':' not in o]
    found = {(path, o) for path,cells in notebooks.items() for o in links(cells) if o}
    assert len(found)>100 and {(path, o) for path,o in found if not (repo/path).parent.joinpath(o).exists()}==set()

def words_of_code(repo, notebooks):
    "Every identifier in the project's code, and every word in its strings"
    modules = [o for folder in ('minec2f', 'tests', 'docs', 'results') for o in (repo/folder).rglob('*.py')]
    others = [repo/o for o in ('settings.ini', 'pyproject.toml', 'Makefile')]
    texts = [o.read_text(encoding='utf-8') for o in (*modules, *others)]
    texts += [source(c) for cells in notebooks.values() for c in cells if c['cell_type']=='code']
    return {word for text in texts for word in re.findall(r'\w+', text)}

def named_in_prose(text):
    "Names between backticks: `name`, `module.name`, `name()`; not code, commands or file names"
    prose = re.sub(r'```.*?```', '', text, flags=re.S)
    for o in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose):
        if re.fullmatch(r'[A-Za-z_][\w.]*(\(\))?', o): yield from o.removesuffix('()').split('.')

# of other software, or of files, that prose speaks of and no code uses
ELSEWHERE = set('nbdev_update nbdev_install_hooks Brightness Normalize Rotate use_logits'.split())

def test_every_name_in_prose_exists(repo, notebooks):
    known = words_of_code(repo, notebooks) | {*dir(builtins), *keyword.kwlist, *ELSEWHERE}
    texts = {o: '\n'.join(source(c) for c in cells if c['cell_type']=='markdown') for o,cells in notebooks.items()}
    texts |= {o: (repo/o).read_text(encoding='utf-8') for o in ('README.md', 'CONTRIBUTING.md', 'results/README.md')}
    unknown = {path: Counter(o for o in named_in_prose(text) if o not in known) for path,text in texts.items()}
    assert {k: sorted(v) for k,v in unknown.items() if v}=={}

IMPORTS = '''
bands.BandStats build.build_chips bundle.load_bundle bundle.save_bundle chips.load_index chips.read_sample
core.MineC2FError curate.chip_facts curate.curate curate.write_curated data.InputSpec data.mine_dls evaluate.evaluate
explore.explore learner.c2f_learner learner.teacher_learner losses.SegLoss method.METHODS method.methods
metrics.Confusion models.mine_model predict.predict_scene predict.to_polygons raster.Grid raster.read_chip
refine.refine_polygons splits.assert_no_leak splits.country_split splits.site_split stac.build_coarse_dataset
synth.synth_dataset viz.learning_curves'''.split()

def test_what_people_import_stays_where_it_is():
    "Since before there were wings"
    found = [o.split('.') for o in IMPORTS]
    assert [o for o in found if not hasattr(import_module(f'minec2f.{o[0]}'), o[1])]==[]

def test_one_import_is_enough_for_most(repo):
    from minec2f import all as everything
    names = [o for o in vars(everything) if o[0]!='_']
    assert 30<len(names)<=50 and {'load_index', 'c2f_learner', 'predict_scene', 'refine_polygons'}<=set(names)

def test_old_addresses_lead_to_the_wings():
    "Every module of a wing is found at its old address, with a warning that says the new one"
    from minec2f import _moved
    for old,new in _moved.MOVED.items():
        sys.modules.pop(old, None)
        with pytest.warns(DeprecationWarning, match=f'{old} is now {new}'): module = import_module(old)
        assert module is import_module(new)
