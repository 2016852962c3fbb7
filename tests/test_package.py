"What a user's first import gives, and what it must not cost; what `help` says."
import ast, inspect, io, multiprocessing, pydoc, shutil, subprocess, sys, tokenize
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
LAZY = '''geopandas pyogrio shapely pystac_client odc ray terratorch papermill IPython ipywidgets spacy onnx folium fpdf
accelerate tensorboard wandb mlflow timm torchvision segmentation_models_pytorch'''.split()

def test_learner_imports_without_what_only_some_need():
    code = 'import sys; from minec2f.learner import c2f_learner, teacher_learner; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True)
    assert done.returncode==0 and done.stderr=='', done.stderr[-500:]
    assert [o for o in LAZY if o in done.stdout.split()]==[]

# Every comment in a signature is shown by `help`. They are read with ast here, which `minec2f.docstrings` does not use

@dataclass
class Comment:
    path:list      # Names that lead to what it is about, from the module on
    parameter:str  # Or field; '' for what is returned
    text:str

def comments_by_line(text):
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip('# ') for t in tokens if t.type==tokenize.COMMENT}

def is_function(o): return isinstance(o, ast.FunctionDef) and (o.name[0]!='_' or o.name=='__init__')

def decorated(o, text): return any(text in ast.unparse(d) for d in o.decorator_list)

def of_parameters(f, path, comments):
    a = f.args
    shown = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    if a.vararg: shown.append(a.vararg)
    if a.kwarg and not decorated(f, 'delegates'): shown.append(a.kwarg) # else help shows what it stands for
    for p in shown:
        if p.lineno in comments and p.lineno>f.lineno: yield Comment(path, p.arg, comments[p.lineno])

def of_return(f, path, comments):
    first = f.body[0].lineno
    end = first-1 if first>f.lineno else first
    text = comments.get(end, 'noqa')
    if end>=f.lineno and f.name!='__init__' and not text.startswith('noqa'): yield Comment(path, '', text)

def of_function(f, path, comments):
    yield from of_parameters(f, path, comments)
    yield from of_return(f, path, comments)

def of_class(cls, comments):
    fields = [o for o in cls.body if isinstance(o, ast.AnnAssign)] if decorated(cls, 'dataclass') else []
    for o in fields:
        if o.lineno in comments: yield Comment([cls.name], o.target.id, comments[o.lineno])
    for f in filter(is_function, cls.body): yield from of_function(f, [cls.name, f.name], comments)

def comments_in(path):
    text = path.read_text(encoding='utf-8')
    comments = comments_by_line(text)
    for o in ast.parse(text).body:
        if isinstance(o, ast.ClassDef) and o.name[0]!='_': yield from of_class(o, comments)
        if not is_function(o): continue
        if decorated(o, 'patch'): yield from of_function(o, [ast.unparse(o.args.args[0].annotation), o.name], comments)
        elif o.name!='__init__': yield from of_function(o, [o.name], comments)

def found(module, path):
    "What the names lead to"
    o = module
    for name in path:
        if name=='__init__': continue  # help of a class shows it
        o = inspect.getattr_static(o, name) if isinstance(o, type) else getattr(o, name)
    return o

def is_shown(o, comment):
    "Does `help` have the comment, below the name of its parameter?"
    said = pydoc.render_doc(getattr(o, '__func__', o), renderer=pydoc.plaintext)
    lines = [line.strip(' |') for line in said.splitlines()]
    names = [before.lstrip('*').split(' : ')[0] for before,line in zip(lines, lines[1:]) if line==comment.text]
    return comment.parameter in names if comment.parameter else comment.text in lines

def test_help_shows_every_comment(repo):
    n, lost = 0, []
    for path in sorted((repo/'minec2f').rglob('[!_]*.py')):
        module = import_module('.'.join(path.relative_to(repo).with_suffix('').parts))
        for comment in comments_in(path):
            o = found(module, comment.path)
            if isinstance(o, property): continue  # has no parameters, and help shows no signature
            n += 1
            if not is_shown(o, comment): lost.append(f'{path.stem}: {comment}')
    assert n>900 and lost==[]

@pytest.mark.parametrize('name,text', [
    ('chips.load_index',           'folder : str or Path\n    '),
    ('splits.site_split',          'buffer_km : float, default 10.0\n    '),
    ('data.mine_dls',              "domain : str, default 'fine'\n    "),
    ('learner.teacher_learner',    '**model_kwargs\n    Of `mine_model`'),
    ('learner.c2f_learner',        'tau : float, default 2.0\n    Temperature'),
    ('bundle.save_bundle',         '\n\nParameters\n'),
    ('bundle.load_bundle',         '\n\nReturns\n'),
    ('predict.predict_scene',      'overlap : float, default 0.5\n    '),
    ('predict.to_polygons',        'min_area_ha : float, default '),
    ('refine.refine_polygons',     'reach_m : float, default 0.0\n    How far outside its coarse outline a mine'),
    ('explore.explore',            'bundles'),
    ('stac.build_coarse_dataset',  '\n\nParameters\n'),
    ('curate.curate',              'min_side'),
    ('build.build_chips',          'margin_m : float, default 0.0\n    '),
    ('bands.Sensor',               'offset : float\n    Reflectance of DN 0'),
    ('build.Built',                'Built(folder, index, errors)\n\nerrors: '),
])
def test_help(name, text):
    from IPython.core.oinspect import getdoc
    module, name = name.split('.')
    o = getattr(import_module(f'minec2f.{module}'), name)
    doc = inspect.getdoc(o)
    assert text in doc and doc.count('\nParameters\n')<=1 and doc[0]!='\n'
    assert getdoc(o)==doc  # `o?` in Jupyter

def test_help_in_another_process():
    "Functions are pickled by name; a process that starts afresh has the same docstrings"
    from minec2f.core import first_few
    said = inspect.getdoc(first_few)
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        assert pool.submit(inspect.getdoc, first_few).result()==said
    assert '\nn : int, default 5\n    How many to show\n' in said

def test_help_in_nbdev():
    "`show_doc` says each thing once, and the source is the file's"
    from nbdev.showdoc import show_doc
    from minec2f import learner
    assert str(show_doc(learner.MineLearner.fit_poly)._repr_markdown_()).count('Peak learning rate')==1
    assert learner.__spec__.loader.get_source('minec2f.learner')==inspect.getsource(learner)

def test_a_wheel_brings_the_notebooks_that_are_commands(tmp_path):
    from minec2f.cli import COMMANDS
    source = tmp_path/'source' # setuptools builds in the folder of its sources
    shutil.copytree(REPO, source, ignore=shutil.ignore_patterns('.*', 'runs', 'results', 'paper_figures', 'build'))
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', tmp_path/'built']
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    found = {o.stem for o in (tmp_path/'built'/'minec2f'/'notebooks').iterdir()}
    assert found=={notebook for notebook,_ in COMMANDS.values()}
