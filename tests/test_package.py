"What a user's first import gives, and what it must not cost; what `help` says."
import ast, inspect, io, multiprocessing, pydoc, subprocess, sys, tokenize
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module

import pytest

LAZY = 'geopandas pyogrio shapely pystac_client odc ray terratorch papermill IPython ipywidgets'.split()

def test_learner_imports_without_what_only_some_need():
    code = 'import sys; from minec2f.learner import c2f_learner, teacher_learner; print(*[o for o in %r if o in sys.modules])' % (LAZY,)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode==0 and done.stderr==''
    assert done.stdout.split()==[]

def documented(path):
    "(names that lead to it, name of a parameter or '', comment) of each comment in a signature; read with ast, which `minec2f.docstrings` does not use"
    text = path.read_text(encoding='utf-8')
    comments = {t.start[0]: t.string.lstrip('# ') for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type==tokenize.COMMENT}
    def of(f, names):
        a = f.args
        handed_on = any('delegates' in ast.unparse(d) for d in f.decorator_list) and a.kwarg # help shows what it stands for
        for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, *(o for o in (a.vararg, a.kwarg) if o and o is not handed_on)):
            if p.lineno in comments and p.lineno>f.lineno: yield names, p.arg, comments[p.lineno]
        end = f.body[0].lineno - (f.body[0].lineno>f.lineno)
        if end in comments and end>=f.lineno and names[-1]!='__init__' and not comments[end].startswith('noqa'): yield names, '', comments[end]
    def public(nodes): return [o for o in nodes if isinstance(o, ast.FunctionDef) and (o.name[0]!='_' or o.name=='__init__')]
    for o in ast.parse(text).body:
        if isinstance(o, ast.ClassDef) and o.name[0]!='_':
            if any('dataclass' in ast.unparse(d) for d in o.decorator_list):
                yield from (([o.name], f.target.id, comments[f.lineno]) for f in o.body if isinstance(f, ast.AnnAssign) and f.lineno in comments)
            for f in public(o.body): yield from of(f, [o.name, f.name])
        elif isinstance(o, ast.FunctionDef) and o in public([o]):
            owner = [ast.unparse(o.args.args[0].annotation)] if any(ast.unparse(d).startswith('patch') for d in o.decorator_list) else []
            if owner or o.name!='__init__': yield from of(o, owner+[o.name])

def test_help_shows_every_comment(repo):
    n, lost = 0, []
    for path in sorted((repo/'minec2f').rglob('[!_]*.py')):
        module = import_module('.'.join(path.relative_to(repo).with_suffix('').parts))
        for names,parameter,comment in documented(path):
            o = module
            for name in names:
                if name!='__init__': o = inspect.getattr_static(o, name) if isinstance(o, type) else getattr(o, name)
            if isinstance(o, property): continue  # has no parameters, and help shows no signature
            said = pydoc.render_doc(getattr(o, '__func__', o), renderer=pydoc.plaintext).splitlines()
            said = [l.strip(' |') for l in said]
            at = [i for i,l in enumerate(said) if l==comment]
            n += 1
            if not any(not parameter or said[i-1].lstrip('*').split(' : ')[0]==parameter for i in at): lost.append(f"{path.stem}.{'.'.join(names)}: {parameter} {comment}")
    assert n>900 and lost==[]

@pytest.mark.parametrize('name,text', [
    ('chips.load_index', 'folder : str or Path\n    '), ('splits.site_split', 'buffer_km : float, default 10.0\n    '), ('data.mine_dls', "domain : str, default 'fine'\n    "),
    ('learner.teacher_learner', '**model_kwargs\n    Of `mine_model`'), ('learner.c2f_learner', 'tau : float, default 2.0\n    Temperature'), ('bundle.save_bundle', '\n\nParameters\n'),
    ('bundle.load_bundle', '\n\nReturns\n'), ('predict.predict_scene', 'overlap : float, default 0.5\n    '), ('predict.to_polygons', 'min_area_ha : float, default '),
    ('refine.refine_polygons', 'reach_m : float, default 0.0\n    How far outside its coarse outline a mine may lie, metres'), ('explore.explore', 'bundles'),
    ('stac.build_coarse_dataset', '\n\nParameters\n'), ('curate.curate', 'min_side'), ('build.build_chips', 'margin_m : float, default 0.0\n    '), ('bands.Sensor', 'offset : float\n    Reflectance of DN 0'),
    ('build.Built', 'Built(folder, index, errors)\n\nerrors: ')])
def test_help(name, text):
    from IPython.core.oinspect import getdoc
    module, name = name.split('.')
    o = getattr(import_module(f'minec2f.{module}'), name)
    doc = inspect.getdoc(o)
    assert text in doc and doc.count('\nParameters\n')<=1 and doc[0]!='\n'
    assert getdoc(o)==doc  # `o?` in Jupyter

def test_help_in_another_process_and_in_nbdev():
    "Functions are pickled by name; a process that starts afresh has the same docstrings; `show_doc` says each thing once"
    from minec2f.learner import MineLearner
    from nbdev.showdoc import show_doc
    from minec2f import learner
    from minec2f.core import first_few
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool: assert pool.submit(inspect.getdoc, first_few).result()==inspect.getdoc(first_few)
    assert '\nn : int, default 5\n    How many to show\n' in inspect.getdoc(first_few)
    assert str(show_doc(MineLearner.fit_poly)._repr_markdown_()).count('Peak learning rate')==1
    assert learner.__spec__.loader.get_source('minec2f.learner')==inspect.getsource(learner)
