"""The ladder end to end: under papermill, twice, killed, side by side, and with data that changed."""
import json, os, shutil, signal, subprocess, sys, time
import nbformat, numpy as np, papermill, pandas as pd, pytest
from conftest import run_notebook
from minec2f.chips import load_index
from minec2f.core import DatasetError, MineC2FError, SplitError
from minec2f.raster import read_chip, write_raster
from minec2f.study.ladder import run_ladder
from minec2f.study.results import ladder_table, read_ladder
from minec2f.synth import synth_dataset

ROWS = ['finetune', 'minec2f']

def papermill_run(repo, out, monkeypatch, **parameters):
    "Run ladder.ipynb as a user would, from the checkout; what it printed"
    parameters = dict(out=str(out), draws=500) | parameters
    return run_notebook(repo, monkeypatch, 'ladder', out.with_suffix('.ipynb'), **parameters)

def stamps(out):
    files = [o for o in out.glob('seed_*/**/*') if o.is_file() and o.suffix!='.lock']
    return {o.relative_to(out).as_posix(): o.stat().st_mtime_ns for o in files}

def results(out): # Every result file, without what a clock says
    read = {o.relative_to(out).as_posix(): json.loads(o.read_text()) for o in sorted(out.glob('seed_*/[!.]*.json'))}
    return {k: {n: x for n,x in v.items() if not n.endswith('seconds')} for k,v in read.items()}

def test_parameters_cell(repo):
    tags = [c.metadata.get('tags', []) for c in nbformat.read(repo/'nbs/ladder.ipynb', 4).cells]
    assert sum('parameters' in o for o in tags)==1

@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    from conftest import REPO
    with pytest.MonkeyPatch.context() as m:
        out = tmp_path_factory.mktemp('ladder')/'smoke'
        yield papermill_run(REPO, out, m), out

def test_smoke(smoke):
    printed, out = smoke
    assert printed.count('steps')==4 and 'ladder.md' in printed
    table, seeds = pd.read_csv(out/'ladder.csv', index_col='row'), pd.read_csv(out/'seeds.csv')
    assert list(table.index)==ROWS and (table['seeds']==2).all() and len(seeds)==4
    for row in ROWS: assert np.isclose(table.loc[row,'miou'], seeds.loc[seeds['name']==row,'miou'].mean())
    line = table.loc['minec2f']
    assert line['miou - finetune: low']<=line['miou - finetune: difference']<=line['miou - finetune: high']
    assert np.isclose(line['miou - finetune: difference'], line['miou']-table.loc['finetune','miou'])
    assert set(pd.read_csv(out/'differences.csv')['metric'])=={'miou','iou_mine','boundary_iou','boundary_f'}
    assert (out/'ladder.md').read_text().count('| minec2f |')==2 and (out/'ladder.png').stat().st_size>5000

def test_same_steps_same_teacher(smoke):
    "What a comparison rests on: per seed, all rows have one teacher, one split, one number of steps and the same chips"
    found = results(smoke[1])
    for seed in (0,1):
        a, b = (found[f'seed_{seed}/{o}.json'] for o in ROWS)
        assert a['steps']==b['steps']>0
        for k in ('split_hash','teacher','loaders','measure'): assert a['config'][k]==b['config'][k]
        for part in ('test','valid'): assert [o['id'] for o in a[part]]==[o['id'] for o in b[part]]
        assert not {o['site'] for o in a['test']} & {o['site'] for o in a['valid']}

def test_second_run_does_nothing(repo, smoke, monkeypatch):
    printed, out = smoke
    before = stamps(out)
    again = papermill_run(repo, out, monkeypatch)
    assert stamps(out)==before and ' steps ' not in again
    assert 'seed 1: finetune, minec2f there already; to run a row again, remove its file' in again

def test_other_recipe_is_refused(repo, smoke, monkeypatch):
    before = stamps(smoke[1])
    with pytest.raises(papermill.PapermillExecutionError, match='student.lr 0.001'):
        papermill_run(repo, smoke[1], monkeypatch, lr=1e-2)
    assert stamps(smoke[1])==before

SMALL = dict(teacher=dict(epochs=1, lr=1e-3, encoder='resnet18', pyramid=64, segmentation=32),
             student=dict(epochs=1, lr=1e-3), loaders=dict(size=64, bs=4, device='cpu'))

def spawn(data, out, seeds, rows=ROWS, **other):
    "A ladder in a process of its own"
    call = f'run_ladder({str(data)!r}, {rows!r}, {seeds!r}, {str(out)!r}, **{SMALL | other!r})'
    code = f'from minec2f.study.ladder import run_ladder\n{call}'
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], env=os.environ | dict(OMP_NUM_THREADS='1'),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def kill_when(process, there):
    "As a power failure would, as soon as `there()` is true"
    while not there() and process.poll() is None: time.sleep(.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return synth_dataset(tmp_path_factory.mktemp('data')/'set', n_coarse=10, n_fine=14, size=64, seed=0)

@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    "The ladder without trouble"
    return run_ladder(data, ROWS, [0,1], tmp_path_factory.mktemp('whole')/'out', **SMALL)

def test_killed_run_resumes_to_the_same(data, whole, tmp_path):
    out = tmp_path/'out'
    kill_when(spawn(data, out, [0,1]), lambda: list(out.glob('seed_0/[!.]*.json')))
    first = stamps(out)
    assert 1<=len(results(out))<4
    left = out/'seed_0'/'.minec2f-0123456789ab-0'
    left.mkdir()
    (left/'minec2f.json').write_text('{"name": "half a')
    run_ladder(data, ROWS, [0,1], out, **SMALL)
    assert results(out)==results(whole)
    after = stamps(out)
    assert all(after[k]==v for k,v in first.items() if '/.' not in k)
    assert not [k for k in after if '/.minec2f-' in k]

def test_killed_within_a_row(data, tmp_path, capsys):
    "It goes on after the last whole epoch, and comes out as without; a file that was cut off is no result"
    longer, out = dict(student=SMALL['student'] | dict(epochs=3)), tmp_path/'out'
    def ladder(out):
        run_ladder(data, ['finetune'], [0], out, **SMALL | longer)
        return results(out), capsys.readouterr().out
    whole, _ = ladder(tmp_path/'whole')
    kept = 'seed_0/checkpoints/finetune-*/training.safetensors'
    kill_when(spawn(data, out, [0], ['finetune'], **longer), lambda: list(out.glob(kept)))
    assert not results(out)
    found, printed = ladder(out)
    assert found==whole and 'of 3 epochs were found in' in printed
    assert not list(out.glob('seed_0/checkpoints/*'))
    path = out/'seed_0'/'finetune.json'
    path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
    found, printed = ladder(out)
    assert found==whole and 'counts as not done' in printed

MISTYPED = [
    dict(methods='finetune,minec2ff'), dict(methods='{"a": ["minec2f", {"kd_schedule": "cosine"}]}'),
    dict(methods='{"a": '),
    dict(references='lwf'), dict(seeds='0,a'), dict(border='wavy'), dict(splits='none'), dict(encoder='resnet19')]

@pytest.mark.parametrize('odd', MISTYPED, ids=str)
def test_mistyped_is_refused_before_training(repo, data, tmp_path, monkeypatch, odd):
    "The notebook's cells in this process"
    monkeypatch.chdir(repo)
    space, given = {}, dict(data=str(data), out=str(tmp_path/'out'), references='') | odd
    with pytest.raises(MineC2FError) as e:
        for c in nbformat.read(repo/'nbs/ladder.ipynb', 4).cells:
            if c.cell_type=='code': exec(compile(c.source, 'ladder.ipynb', 'exec'), space)
            if 'parameters' in c.metadata.get('tags', []): space.update(given)
    assert not (tmp_path/'out').exists(), e

def test_two_processes_one_folder(data, whole, tmp_path):
    "The same command twice, and one with the seeds in another order: each row is trained once, with one teacher a seed"
    processes = [spawn(data, tmp_path/'out', seeds) for seeds in ([0,1], [0,1], [1,0])]
    printed = [o.communicate(timeout=600)[0] for o in processes]
    assert [o.returncode for o in processes]==[0,0,0], printed
    assert results(tmp_path/'out')==results(whole)
    assert sum(o.count(' steps ') for o in printed)==4

def test_order_and_company_do_not_matter(data, whole, tmp_path):
    "A row alone is the row of the whole ladder; reading without the cache gives the same numbers"
    out = run_ladder(data, ['minec2f'], [1], tmp_path/'out', cache=False, **SMALL)
    assert results(out)['seed_1/minec2f.json']==results(whole)['seed_1/minec2f.json']

def test_variants_and_teachers(data, whole, tmp_path):
    "A variant with a teacher of its own: trained once, kept apart, and the others are untouched"
    rows = dict(coarse_only='coarse_only', relaxed=('coarse_only', dict(teacher=dict(loss=dict(how='relax', width=2)))),
                off=('minec2f', dict(lambda_f=0., lambda_p=0.)), finetune='finetune')
    out = run_ladder(data, rows, [0], tmp_path/'out', keep=True, **SMALL)
    found = results(out)
    chips = {k: [o['confusion'] for o in found[f'seed_0/{k}.json']['test']] for k in rows}
    assert chips['coarse_only']!=chips['relaxed'] and chips['off']==chips['finetune']
    assert found['seed_0/coarse_only.json']['steps']==0
    assert found['seed_0/finetune.json']==results(whole)['seed_0/finetune.json']
    assert len(list(out.glob('seed_0/teacher*')))==2 and (out/'seed_0'/'off'/'model.safetensors').exists()

def test_unlabelled_images(data, whole, tmp_path):
    "Images without labels change the rows that ask for them, and no other"
    index = load_index(data)
    fine = index[index['domain']=='fine']
    further = fine.assign(id='u'+fine['id'], site='u'+fine['site'], lon=fine['lon']+5, domain='unlabelled', mask='')
    selftrain = 'minec2f+', dict(lambda_f=0., lambda_p=0., lambda_c=0., lambda_u=1., confidence=.5, unlabelled=True)
    def ladder(further, out=tmp_path/'out'):
        both = pd.concat([index, further], ignore_index=True)
        return run_ladder(both, dict(finetune='finetune', selftrain=selftrain), [0], out, **SMALL)
    found = results(ladder(further))
    a, b = (found[f'seed_0/{o}.json'] for o in ('finetune','selftrain'))
    assert a==results(whole)['seed_0/finetune.json']
    assert 'unlabelled' in b['config'] and a['steps']==b['steps']
    assert [o['confusion'] for o in a['test']]!=[o['confusion'] for o in b['test']]
    with pytest.raises(DatasetError, match='another configuration: unlabelled'): ladder(further.iloc[1:])
    with pytest.raises(SplitError, match='unlabelled domain has no train chips'):
        ladder(further.iloc[:0], tmp_path/'none')

def test_other_data_are_refused(data, whole, tmp_path):
    "One pixel of one mask is enough; nothing is overwritten"
    shutil.copytree(data, tmp_path/'data')
    before, path = stamps(whole), load_index(tmp_path/'data')['mask'].iloc[-1]
    assert run_ladder(tmp_path/'data', ROWS, [0,1], whole, **SMALL) and stamps(whole)==before
    x, _, grid = read_chip(path)
    x[0,0,0] = 1-x[0,0,0]
    write_raster(path, x, grid, nodata=255)
    with pytest.raises(DatasetError, match='another configuration: data'):
        run_ladder(tmp_path/'data', ROWS, [0,1], whole, **SMALL)
    assert stamps(whole)==before

def test_mixed_folder_is_refused(data, whole, tmp_path):
    "Results of two splits under one seed make no table"
    shutil.copytree(whole, tmp_path/'out')
    table = ladder_table(tmp_path/'out', ['finetune'], draws=200)
    assert table['seeds'].tolist()==[2,2] and len(read_ladder(tmp_path/'out'))
    foreign = json.loads((tmp_path/'out'/'seed_0'/'minec2f.json').read_text())
    (tmp_path/'out'/'seed_1'/'minec2f.json').write_text(json.dumps(foreign | dict(seed=1)))
    with pytest.raises(DatasetError, match='split_hash'): ladder_table(tmp_path/'out')
