"The notebook on domain shift, under papermill."
import json
import nbformat, papermill, pandas as pd

def test_parameters_cell(repo):
    tags = [c.metadata.get('tags', []) for c in nbformat.read(repo/'nbs/domain_shift.ipynb', 4).cells]
    assert sum('parameters' in o for o in tags)==1

def test_smoke(repo, tmp_path, monkeypatch):
    "Files and numbers; a parameter that changes the result"
    monkeypatch.chdir(repo)
    parameters = dict(out=str(tmp_path/'out'), permutations=99, taps='P3', per_image=50, images=20)
    papermill.execute_notebook('nbs/domain_shift.ipynb', str(tmp_path/'nb.ipynb'), parameters, progress_bar=False)
    out = tmp_path/'out'
    bands, sources = (pd.read_csv(out/f'{o}.csv') for o in ('bands', 'sources'))
    assert set(bands['label'])=={'all','background','mine'} and bands['band'].nunique()==4
    assert bands['overlap'].dropna().between(0, 1).all()
    assert bands.filter(like='p_').stack().between(.01, 1).all()
    assert {'pixels','teacher P3','student P3'}==set(sources['source']) and sources['coarse'].max()==20
    of_all = sources[sources['label']=='all'].set_index('source')['sliced']
    assert of_all['teacher P3']!=of_all['student P3'], 'the student was not trained'
    for name in ('kde.png', 'kde.pdf', 'distances.png', 'distances.pdf'): assert (out/name).stat().st_size>5000
    assert json.loads((out/'settings.json').read_text())['per_image']==50
    assert '| teacher P3 |' in (out/'shift.md').read_text()
