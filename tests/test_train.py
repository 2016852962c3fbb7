"""The main notebooks end to end under papermill: on synthetic data, on real data, on a GPU; killed, mistyped, and let
loose on somebody's folder."""
import json, os, random, re, subprocess, sys, time
from contextlib import suppress
from pathlib import Path

import nbformat, papermill, pandas as pd, psutil, pytest, rasterio
from conftest import run_notebook

from minec2f.chips import load_index
from minec2f.core import DatasetError, MineC2FError
from minec2f.splits import site_split
from minec2f.synth import synth_dataset

SMALL = dict(methods='minec2f,finetune')
EPOCHS = dict(teacher_epochs=2, student_epochs=2)

def run(repo, out, monkeypatch, **parameters):
    "Run train.ipynb as a user would, from the checkout; its metrics"
    monkeypatch.chdir(repo)
    given = dict(out=str(out), **parameters)
    papermill.execute_notebook('nbs/train.ipynb', out.with_suffix('.ipynb'), given, progress_bar=False)
    return json.loads((out/'metrics.json').read_text())

def chips(metrics, model): return [o['confusion'] for o in metrics['per_chip'][model]]

def check_outputs(out, metrics, bundles):
    assert sorted(o.name for o in (out/'bundles').iterdir())==sorted(bundles)==sorted(metrics['scores'])
    assert (out/'comparison.png').stat().st_size>10_000 and (out/'learning_curves.png').stat().st_size>5_000
    assert metrics['maps']
    for name in metrics['maps']:
        for suffix in ('.tif', '.gpkg', '.png'): assert (out/'maps'/f'{name}{suffix}').exists()
    assert all(0<=s['miou']<=1 for s in metrics['scores'].values())

def test_parameters_cell(repo):
    for name in ('train', 'predict'):
        tags = [c.metadata.get('tags', []) for c in nbformat.read(repo/f'nbs/{name}.ipynb', 4).cells]
        assert sum('parameters' in o for o in tags)==1

@pytest.fixture(scope='module')
def default(tmp_path_factory):
    from conftest import REPO
    with pytest.MonkeyPatch.context() as m:
        out = tmp_path_factory.mktemp('train')/'default'
        yield run(REPO, out, m, methods='minec2f,finetune,fine_only', **EPOCHS), out

def test_smoke(default):
    metrics, out = default
    check_outputs(out, metrics, ['teacher','minec2f','finetune','fine_only'])
    assert metrics['config']['profile']=='smoke' and metrics['config']['lambda_f']==.1
    assert set(metrics['scene_scores'])==set(metrics['scores']) and not metrics['maps']['s0000']['seen_in_training']
    for name,o in metrics['scene_scores'].items():
        assert o['scenes']==1 and o['pixels']==sum(map(sum, metrics['per_scene'][name][0]['confusion']))

def test_the_best_on_validation_sites_is_chosen(default):
    "And the test sites have no say"
    metrics, out = default
    assert set(metrics['validation'])=={'minec2f','finetune','fine_only'}
    assert metrics['best']==max(metrics['validation'], key=metrics['validation'].get)
    for o in (out/'bundle').iterdir(): assert o.read_bytes()==(out/'bundles'/metrics['best']/o.name).read_bytes()

def test_predict(repo, default, tmp_path, monkeypatch):
    "The other notebook maps the same scene with the chosen bundle: the same map"
    metrics, out = default
    monkeypatch.chdir(repo)
    parameters = dict(bundle=str(out/'bundle'), scene=str(out/'data'/'scenes'), out=str(tmp_path/'maps'), tta=True)
    papermill.execute_notebook('nbs/predict.ipynb', str(tmp_path/'predict.ipynb'), parameters, progress_bar=False)
    again = tmp_path/'maps'
    for name in metrics['maps']:
        with rasterio.open(out/'maps'/f'{name}.tif') as a, rasterio.open(again/f'{name}.tif') as b:
            assert (a.read()==b.read()).all()
        assert (again/f'{name}.gpkg').exists() and (again/f'{name}.png').exists()

def test_the_card_says_how_good_it_is(default):
    "For people what the numbers say, with intervals, in every bundle"
    metrics, out = default
    for name,scores in metrics['scores'].items():
        text = (out/'bundles'/name/'MODEL_CARD.md').read_text(encoding='utf-8')
        assert text.startswith(f'# Model card: {name}\n') and 'only seen synthetic ones' in text
        assert f"| {scores['miou']:.3f} | {scores['miou_low']:.3f} to {scores['miou_high']:.3f} |" in text
        assert f"{scores['chips']:.0f} chips of {scores['sites']:.0f} sites" in text
        train, test = (metrics['chips']['fine'][o] for o in ('train','test'))
        assert re.search(rf'\| fine \| {train} \(\d+\) \| \d+ \(\d+\) \| {test} \(\d+\) \|', text)

def test_report(repo, default, tmp_path, monkeypatch):
    "What training leaves behind is enough for a report; a scene of it is told from one beside a training site"
    metrics, out = default
    said = run_notebook(repo, monkeypatch, 'report', tmp_path/'r.ipynb', run=str(out), out=str(tmp_path/'report'))
    assert '1 map(s); bundle found; refined outlines not found' in said and 'There is no sample.' in said
    assert sorted(o.name for o in (tmp_path/'report').glob('[!.]*'))==['areas.csv', 'report.html', 'report.pdf']
    areas = pd.read_csv(tmp_path/'report'/'areas.csv').set_index('site')
    assert abs(areas.loc['total','area_ha']-metrics['maps']['s0000']['area_ha'])<.01
    assert areas['seen_in_training'].tolist()==[False, False]
    text = (tmp_path/'report'/'report.html').read_text(encoding='utf-8')
    best = metrics['scores'][metrics['best']]
    assert f"{best['iou_mine_low']:.3f} to {best['iou_mine_high']:.3f}" in text

def test_parameters_change_the_result(repo, default, tmp_path, monkeypatch):
    """Without weight on distillation the method is fine-tuning, chip for chip; with it, on the same teacher, it is not.
    A table that has a split keeps it, whatever test_share says"""
    before, out = default
    data = out/'data'
    split = site_split(load_index(data), .2, .3)
    split[['id','site','domain','split','polygons']].to_csv(data/'own.csv', index=False)
    after = run(repo, tmp_path/'p', monkeypatch, lambda_f=0., lambda_p=0., data=str(data), table='own.csv',
                test_share=.6, **SMALL, **EPOCHS)
    assert after['config']['lambda_f']==0
    assert chips(after, 'teacher')==chips(before, 'teacher')
    assert chips(after, 'minec2f')==chips(after, 'finetune')==chips(before, 'finetune')
    assert before['last_losses']['minec2f']['prediction']>0
    assert 'prediction' not in after['last_losses']['minec2f']

def test_images_without_labels(repo, tmp_path, monkeypatch):
    """Chips of the domain `unlabelled`, their masks gone: the method learns from them, they only train, and fine-tuning
    does not look at them"""
    data = synth_dataset(tmp_path/'data', n_coarse=12, n_fine=24, size=64, seed=3, n_scenes=0)
    index = pd.read_csv(data/'index.csv')
    index.loc[index.index[-8:], 'domain'] = 'unlabelled'
    index.to_csv(data/'index.csv', index=False)
    for o in index['id'][-8:]: (data/'masks'/f'{o}.tif').unlink()
    index.iloc[:-8].to_csv(data/'labelled.csv', index=False)
    def trained(table): return run(repo, tmp_path/table, monkeypatch, data=str(data), table=f'{table}.csv', **SMALL)
    mixed, alone = trained('index'), trained('labelled')
    assert mixed['chips']['unlabelled']==dict(train=8, valid=0, test=0)
    assert mixed['last_losses']['minec2f']['unlabelled']>0
    assert 'unlabelled' not in alone['chips'] and 'unlabelled' not in alone['last_losses']['minec2f']
    assert chips(mixed, 'finetune')==chips(alone, 'finetune')

def cells(repo, **parameters):
    "Run the notebook's cells in this process; what it defined"
    space, nb = {}, nbformat.read(repo/'nbs/train.ipynb', 4)
    for c in nb.cells:
        if c.cell_type!='code': continue
        exec(compile(c.source, 'train.ipynb', 'exec'), space)
        if 'parameters' in c.metadata.get('tags', []): space.update(parameters)
    return space

MISTYPED = dict(
    profile='smok', methods='minec2f,finetun', encoder='resnet19', weights='no_such.pth', segmentation=16, pyramid=0,
    gate='soft', kd_schedule='cosine', feature_attention='cbam', prediction_attention='reliabilty', lambda_f=-1,
    tau=float('nan'), a_ce=-.5, lr='fast', student_epochs=0, size=50, table='no_such.csv', layer='no_such_layer',
    bands='B04,B99', band_names=8, scene='no_such_folder', min_area_ha=-2,
    mapper='finetun', tracker='tensorbord', tta='false', calibrate='no', fix='yes')

@pytest.mark.parametrize('name', MISTYPED)
def test_mistyped_is_refused_before_training(repo, default, tmp_path, monkeypatch, name):
    monkeypatch.chdir(repo)
    given = dict(out=str(tmp_path/'out'), data=str(default[1]/'data')) | {name: MISTYPED[name]}
    with pytest.raises(MineC2FError) as e: cells(repo, **given)
    assert str(MISTYPED[name]).split(',')[-1] in str(e.value)
    assert not (tmp_path/'out').exists()

def contents(folder): return {o.relative_to(folder): o.read_bytes() for o in folder.rglob('*') if o.is_file()}

THEIRS = ['data/field_notes.txt', 'metrics.json', 'bundles/teacher/bundle.json', 'bundle/notes.txt', 'index.csv', None]

@pytest.mark.parametrize('theirs', THEIRS)
def test_a_users_folder_is_left_alone(repo, tmp_path, monkeypatch, theirs):
    "Also where the output is a file"
    monkeypatch.chdir(repo)
    file = tmp_path/'project'/theirs if theirs else tmp_path/'project'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('years of work')
    before = contents(tmp_path)
    with pytest.raises(MineC2FError, match='project'): cells(repo, out=str(tmp_path/'project'))
    assert contents(tmp_path)==before

def test_a_foreign_bundle_is_found_before_training(repo, tmp_path, monkeypatch):
    monkeypatch.chdir(repo)
    (tmp_path/'out'/'bundle').mkdir(parents=True)
    (tmp_path/'out'/'bundle'/'notes.txt').write_text('years of work')
    (tmp_path/'out'/'run.json').write_text('{}')
    before = contents(tmp_path)
    with pytest.raises(MineC2FError, match='not of a bundle.*notes.txt'): cells(repo, out=str(tmp_path/'out'))
    assert contents(tmp_path)==before

def start(repo, out):
    "The command line of the README in a process of its own; what it prints goes to a file"
    command = [str(Path(sys.executable).with_name('papermill')), 'nbs/train.ipynb', f'{out}.ipynb',
               '--no-progress-bar', '--stdout-file', f'{out}.txt']
    for k,v in dict(out=out, methods='minec2f', **EPOCHS).items(): command += ['-p', k, str(v)]
    return subprocess.Popen(command, cwd=repo, env=os.environ | dict(OMP_NUM_THREADS='1'),
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def kill(process): # and the kernel, which is a process of its own
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for o in [*children, process]:
        with suppress(psutil.NoSuchProcess): o.kill()  # it may have come to its end meanwhile
    process.communicate()

def kill_after(process, seconds):
    try: process.wait(seconds)
    except subprocess.TimeoutExpired: kill(process)

def kill_once(process, path):
    "Kill it as soon as it has written `path`; it may come to its end before"
    while not path.exists() and process.poll() is None: time.sleep(.05)
    kill(process)

def test_killed_twice_and_run_again(repo, default, tmp_path, monkeypatch):
    """Once at any moment, once while the student trains: in the end the weights and numbers of an unbroken run. It says
    what it found, and refuses another recipe"""
    metrics, whole = default
    out, moment = tmp_path/'out', random.uniform(2, 25)
    checkpoint = out/'checkpoints'/'minec2f'/'training.safetensors'
    kill_after(start(repo, out), moment)
    kill_once(start(repo, out), checkpoint)
    says = []
    if (out/'bundles'/'teacher').exists(): says.append('teacher was finished before')
    if checkpoint.exists(): says.append('of 2 epochs were found in')
    process = start(repo, out)
    process.communicate()
    printed = Path(f'{out}.txt').read_text()
    assert process.returncode==0 and says and all(o in printed for o in says), (moment, printed)

    again = json.loads((out/'metrics.json').read_text())
    for name in ('teacher','minec2f'):
        weights = f'bundles/{name}/model.safetensors'
        assert (out/weights).read_bytes()==(whole/weights).read_bytes(), moment
        for k in ('scores','last_losses','per_chip'): assert again[k][name]==metrics[k][name], (k, moment)
    assert not list(out.glob('checkpoints/*')) and not list(out.rglob('.minec2f-*'))
    monkeypatch.chdir(repo)
    with pytest.raises(DatasetError, match=r'lr 0.001 \(asked for: 0.01\)'):
        cells(repo, out=str(out), methods='minec2f', lr=1e-2, **EPOCHS)

def test_real(repo, real, tmp_path, monkeypatch):
    "Polygons for the coarse domain, masks for the fine one, a whole scene mapped: three bands, degrees, not metres"
    data = real/'tailings_br'
    metrics = run(repo, tmp_path/'real', monkeypatch, data=str(data), polygons=str(data/'coarse_polygons.gpkg'),
                  bands='B04,B03,B02', bs=16, scene=str(data/'scenes'/'tail_100.tif'), **SMALL)
    check_outputs(tmp_path/'real', metrics, ['teacher','minec2f','finetune'])
    assert metrics['chips']['fine']['test']>0 and metrics['chips']['coarse'].get('test', 0)==0
    assert metrics['maps']['tail_100']['seen_in_training'] and metrics['scene_scores']=={}  # its site is a coarse one

@pytest.mark.gpu
def test_gpu(repo, tmp_path, monkeypatch):
    "Full size, mixed precision, channels-last; few epochs"
    epochs = dict(teacher_epochs=2, student_epochs=2)
    metrics = run(repo, tmp_path/'gpu', monkeypatch, profile='gpu', weights='random', **epochs)
    check_outputs(tmp_path/'gpu', metrics, ['teacher','minec2f','finetune','fine_only'])
    assert metrics['device'].startswith('cuda')
