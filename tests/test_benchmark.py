"The benchmark notebook under papermill at smoke size: it measures all there is, and its numbers hang together."
import json, nbformat, papermill, pytest, torch

from minec2f.attention import GATES
from minec2f.learner import c2f_learner  # noqa: F401 (all methods are registered with it)
from minec2f.method import METHODS

def run(repo, out, monkeypatch, **parameters):
    monkeypatch.chdir(repo)
    done = out.with_suffix('.ipynb')
    papermill.execute_notebook('nbs/benchmark.ipynb', done, dict(out=str(out), **parameters), progress_bar=False)
    return json.loads((out/'benchmark.json').read_text())

def test_parameters_cell(repo):
    tags = [c.metadata.get('tags', []) for c in nbformat.read(repo/'nbs/benchmark.ipynb', 4).cells]
    assert sum('parameters' in o for o in tags)==1

@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    from conftest import REPO
    with pytest.MonkeyPatch.context() as m:
        out = tmp_path_factory.mktemp('benchmark')/'smoke'
        yield run(REPO, out, m, device='cpu', size=64), out

def test_all_that_is_registered(smoke):
    record, out = smoke
    results = record['results']
    assert set(results['training step'])==set(METHODS)
    for n in (1, 8): assert set(GATES)<=set(results[f'prediction, {n} window(s)'])
    assert list(results['architectures, 8 window(s)'])==['fpn','unet','deeplabv3plus']
    page = (out/'benchmark.md').read_text()
    assert all(f'| {o} |' in page for o in [*METHODS, *GATES, 'boundary weights', 'reading the batch'])

def test_ratios_hang_together(smoke):
    "The base of each table is 1, and quartiles enclose the median"
    for title,table in smoke[0]['results'].items():
        rows = table.values()
        assert all(0<o['low']<=o['ratio']<=o['high'] and o['ms']>0 for o in rows)
        if not title.startswith('share'): assert any(o['ratio']==o['low']==o['high']==1 for o in rows), title

def test_costs_hang_together(smoke):
    "A step without a step is cheaper, one with a second network dearer"
    results = smoke[0]['results']
    steps = {k: o['ratio'] for k,o in results['training step'].items()}
    assert steps['coarse_only']<.7<steps['finetune']==1<steps['joint']
    assert 0<results['share of the minec2f step']['boundary weights']['ratio']<.5
    nets = results['architectures, 8 window(s)'].values()
    assert len({o['parameters'] for o in nets})==3
    assert all(o['MiB'] is None for o in nets)

def test_machine_is_described_and_not_named(smoke):
    record, out = smoke
    machine = record['machine']
    assert set(machine)=={'device','cpu','cores','threads','torch','gpu'}
    assert machine['device']=='cpu' and machine['cpu'] and machine['torch']==torch.__version__
    assert machine['threads']==1 and machine['cores']>=1
    assert sorted(o.name for o in out.iterdir())==['benchmark.json', 'benchmark.md']

MISTYPED = [('benchmark', dict(methods='minec2ff')), ('benchmark', dict(archs='u-net')),
            ('benchmark', dict(batches='1,b')), ('domain_shift', dict(taps='C5,P9')),
            ('domain_shift', dict(split='tset')), ('domain_shift', dict(teacher='somewhere'))]

@pytest.mark.parametrize('notebook,odd', MISTYPED, ids=str)
def test_mistyped_is_refused_before_work(repo, tmp_path, monkeypatch, notebook, odd):
    "The cells of the notebook in this process"
    monkeypatch.chdir(repo)
    space = {}
    with pytest.raises(ValueError, match='not known|no tap|were expected|give both'):
        for c in nbformat.read(repo/f'nbs/{notebook}.ipynb', 4).cells:
            if c.cell_type=='code': exec(compile(c.source, notebook, 'exec'), space)
            if 'parameters' in c.metadata.get('tags', []): space.update(dict(out=str(tmp_path/'out')) | odd)
    assert 'results' not in space and not (tmp_path/'out').exists()

@pytest.mark.gpu
def test_gpu(repo, tmp_path, monkeypatch):
    "Full size: what distillation and gates may cost at most"
    record = run(repo, tmp_path/'gpu', monkeypatch, device='cuda', encoder='densenet121', pyramid=256, segmentation=128,
                 size=256, bs=8, repeats=15, warmup=5, methods='minec2f')
    results = record['results']
    assert results['training step']['minec2f']['ratio']<1.6
    assert results['prediction, 8 window(s)']['sigmoid']['ratio']<1.2
    assert all(o['MiB']>0 for o in results['architectures, 8 window(s)'].values())
