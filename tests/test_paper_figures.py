"""Every notebook of `paper_figures/` under papermill, at smoke size.

A kernel of its own for each would take longer to start than to work. So one kernel runs them all, emptied before each
notebook: names are gone, loaded modules stay. Small data and models are made once and shared through a folder.
"""
import json, re, shutil
import nbformat, papermill, pandas as pd, pytest
from jupyter_client import KernelManager
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

FIGURES = 'fig1_problem fig2_kde fig3_framework fig4_grid fig5_boundaries'.split()
TABLES = 'table_main table_ablation table_curation table_cost table_data falsification'.split()
FAST = dict(
    table_main=dict(draws=200), table_ablation=dict(draws=200), falsification=dict(draws=200),
    table_cost=dict(repeats=3, batch=1), table_curation=dict(sizes='48:3,96:2,160:1'),
    fig2_kde=dict(permutations=99, per_image=100), fig3_framework=dict(encoder='resnet18', pyramid=64, segmentation=32),
    fig4_grid=dict(chips=2), fig5_boundaries=dict(chips=1, window=32))
NO_SMALL_DATA = 'fig3_framework', 'table_cost', 'table_curation' # they have no parameter `smoke`

class OneKernel(NBClientEngine):
    "papermill's own engine, with a kernel that stays"
    kernel = None
    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        client = cls.kernel.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=120)
        client.execute_interactive('%reset -f', silent=True, timeout=60)
        client.stop_channels()
        return super().execute_managed_notebook(nb_man, kernel_name, km=cls.kernel, **kwargs)

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "The folder that all share, and the kernel, started in the checkout"
    from conftest import REPO
    OneKernel.kernel = KernelManager(kernel_name='python3')
    OneKernel.kernel.start_kernel(cwd=str(REPO))
    papermill_engines.register('one_kernel', OneKernel)
    yield tmp_path_factory.mktemp('paper')
    OneKernel.kernel.shutdown_kernel(now=True)

def run(repo, place, name, to=None, **parameters):
    "Run a notebook as papermill does; (folder of what it wrote, what it printed)"
    out = place/(to or name)
    parameters = FAST.get(name, {}) | dict(out=str(out)) | parameters
    if name not in NO_SMALL_DATA: parameters = dict(smoke=str(place/'smoke')) | parameters
    source, made = repo/f'paper_figures/{name}.ipynb', place/f'{to or name}.ipynb'
    nb = papermill.execute_notebook(str(source), str(made), parameters, progress_bar=False, engine_name='one_kernel')
    return out, ''.join(o.get('text', '') for c in nb.cells for o in c.get('outputs', []))

def models(place): return next((place/'smoke').glob('models-*'))

def test_all_are_tested(repo):
    found = {o.stem for o in (repo/'paper_figures').glob('*.ipynb')}
    assert found=={*FIGURES, *TABLES, 'models'}
    for o in found:
        cells = nbformat.read(repo/f'paper_figures/{o}.ipynb', 4).cells
        assert sum('parameters' in c.metadata.get('tags', []) for c in cells)==1, o
        assert 'skip_exec' in cells[0].source, o

@pytest.mark.parametrize('name', [*FIGURES, *TABLES])
def test_smoke(repo, place, name):
    "Four files; the caption says what the data is and claims nothing; the numbers are there"
    out, printed = run(repo, place, name)
    assert {o.name for o in out.iterdir()}>={f'{name}.{o}' for o in ('png','pdf','csv','md')}
    assert (out/f'{name}.png').stat().st_size>4000 and (out/f'{name}.pdf').read_bytes()[:4]==b'%PDF'
    caption = (out/f'{name}.md').read_text()
    assert 'reconstruction' in caption and caption.strip() and len(pd.read_csv(out/f'{name}.csv'))
    if name in ('fig3_framework', 'table_cost'): assert 'no data' in caption or 'random images' in caption
    else: assert 'Synthetic' in caption

def test_missing_rows_are_named(repo, place):
    table = pd.read_csv(place/'table_main'/'table_main.csv', index_col='row')
    assert table.loc['lwm','status']=='missing' and pd.isna(table.loc['lwm','miou'])
    assert table.loc['minec2f','status']=='measured'
    missing = re.search(r'Missing: (.*?)\. ', (place/'table_main'/'table_main.md').read_text())[1]
    assert {'LwM', 'Prithvi-100M'}<=set(missing.split(', '))
    assert 'LwM' in (place/'fig4_grid'/'fig4_grid.md').read_text()

def test_ablations_say_how_they_differ(repo, place):
    ablation = pd.read_csv(place/'table_ablation'/'table_ablation.csv')
    assert set(ablation['id'])=={*(f'A{o}' for o in range(20)), '+'}
    differs = ablation.set_index('row')['differs']
    assert differs['uniform']=='feature_attention uniform; prediction_attention uniform'
    todo = json.loads((place/'table_ablation'/'todo.json').read_text())
    assert 'shuffled' in todo and not set(todo) & set(ablation.loc[ablation['status']=='measured', 'row'])

def test_claims_without_rows_are_not_measured(repo, place):
    lines = pd.read_csv(place/'falsification'/'falsification.csv')
    assert set(lines['ours'])=={'minec2f', 'minec2f+', 'finetune'}
    assert (lines.loc[lines['ours']=='minec2f+', 'verdict']=='not measured').all()

def test_numbers_are_the_ladders(repo, place):
    "What the tables say is what the result files say"
    from minec2f.study.results import ladder_table
    table = pd.read_csv(place/'table_main'/'table_main.csv', index_col='row')
    direct = ladder_table(models(place)/'fpn')
    assert abs(table.loc['minec2f','miou']-direct.loc['minec2f','miou'])<1e-9
    assert table.loc['finetune','seeds']==1

def test_cost_is_relative_to_the_first(repo, place):
    cost = pd.read_csv(place/'table_cost'/'table_cost.csv', index_col='network')
    ratios = ['time ratio','parameters ratio','operations ratio','activations ratio']
    assert (cost.loc['FPN', ratios]==1).all() and cost['ms'].isna().all()
    assert cost.iloc[1]['parameters ratio']>1 and cost.iloc[1]['activations ratio']>1

def test_chips_are_counted(repo, place):
    "What curation keeps, what the data set holds"
    curation = pd.read_csv(place/'table_curation'/'table_curation.csv', index_col='set')
    assert curation['kept'].tolist()[:4]==[6, 1, 0, 0]
    data = pd.read_csv(place/'table_data'/'table_data.csv')
    assert data.loc[data['domain']=='fine','chips'].sum()==16 and data['mine_share'].between(0, 1).all()

def test_framework_is_that_of_the_network(repo, place):
    taps = pd.read_csv(place/'fig3_framework'/'fig3_framework.csv', index_col='tap')
    assert set(taps.index[taps['distilled']=='feature'])=={'R2','R3','R4','R5'}
    assert taps.loc['logits','distilled']=='prediction'

@pytest.fixture
def fails(repo, place):
    "A notebook stops with an error that says something"
    def check(name, contains, **parameters):
        with pytest.raises(PapermillExecutionError) as e: run(repo, place, name, 'wrong', **parameters)
        assert contains in str(e.value), str(e.value)[-600:]
    return check

@pytest.mark.parametrize('name, parameter, value, said', [
    ('table_main', 'part', 'tests', "part 'tests' is not known"),
    ('table_main', 'reference', 'lwff', "reference 'lwff' is not known"),
    ('table_ablation', 'part', 'tests', "part 'tests' is not known"),
    ('falsification', 'metric', 'iou', "metric 'iou' is not known"),
    ('fig4_grid', 'columns', 'lwf', "columns are 'lwf'")])
def test_mistyped_is_refused_before_training(place, fails, name, parameter, value, said):
    fails(name, said, smoke=str(place/'untouched'), **{parameter: value})
    assert not (place/'untouched').exists()

def test_other_data_are_refused(place, fails):
    fpn, other = models(place)/'fpn', place/'other'
    shutil.copytree(place/'smoke'/'data', other)
    table = pd.read_csv(other/'index.csv')
    table.iloc[:-1].to_csv(other/'index.csv', index=False)
    fails('table_main', 'was made from data with the fingerprint', results=str(fpn), data=str(other))
    fails('fig4_grid', 'was made from data with the fingerprint', results=str(fpn), data=str(other))
    table.loc[table['domain']=='fine'].to_csv(other/'index.csv', index=False)
    fails('fig1_problem', 'no coarse chip of this data set has a mask', data=str(other))
    fails('table_curation', 'no coarse chip', data=str(other))

def test_results_that_do_not_belong_together_are_refused(place, fails):
    "Two splits under one seed, and the same row made in two ways"
    fpn, spoilt = models(place)/'fpn', place/'spoilt'/'seed_0'
    shutil.copytree(fpn/'seed_0', spoilt, ignore=lambda d,n: [o for o in n if not o.endswith('.json')])
    res = json.loads((spoilt/'lwf.json').read_text())
    res['config']['split_hash'] = 'another'
    (spoilt/'lwf.json').write_text(json.dumps(res))
    fails('table_main', 'split_hash', results=str(spoilt.parent))
    fails('falsification', 'split_hash', results=f'{fpn},{spoilt.parent}')

def test_what_is_not_there_is_named(place, fails):
    fpn = models(place)/'fpn'
    fails('table_ablation', 'holds no results', results=str(place/'nowhere'))
    fails('fig5_boundaries', 'has a kept model', results=str(fpn), data=str(place/'smoke'/'data'), columns='mdil:MDIL')
    fails('fig4_grid', 'no data to show them on', results=str(fpn))
