"""The tables in results/, and what the front page says of them, are what the recorded results give."""
import re, runpy
import pandas as pd, pytest
from conftest import REPO

@pytest.fixture(scope='module')
def ladder(): return runpy.run_path(str(REPO/'results'/'ladder.py'))

@pytest.mark.parametrize('name', ['synthetic','tailings'])
def test_tables_are_those_of_the_results(ladder, name):
    for file,text in ladder['report'](name).items():
        assert (REPO/'results'/file).read_text()==text, f'run python results/ladder.py {name} tables'

def test_every_row_has_every_seed(ladder):
    for name,data in ladder['DATA'].items():
        for seed in (0,1,2):
            found = {o.stem for o in (REPO/'results'/name/f'seed_{seed}').glob('[!.]*.json')}
            assert found==set(ladder['rows'](data.flip)), (name, seed)

def test_readme_shows_the_summary(ladder): assert ladder['summary']() in (REPO/'results'/'README.md').read_text()

def test_readme_shows_what_pretrained_weights_gave():
    table = runpy.run_path(str(REPO/'results'/'pretrained.py'))['table']()
    assert table in (REPO/'results'/'README.md').read_text()

def test_readme_shows_what_better_probabilities_gave():
    table = runpy.run_path(str(REPO/'results'/'probabilities.py'))['table']()
    assert table in (REPO/'results'/'README.md').read_text()

def test_verdict_is_that_of_the_tables():
    "The front page's three lines"
    text = ' '.join((REPO/'README.md').read_text().split())
    tables = {o: pd.read_csv(REPO/'results'/f'{o}_test.csv', index_col='row') for o in ('synthetic','tailings')}
    gain = {k: 100*t.loc['finetune', 'miou - fine_only: difference'] for k,t in tables.items()}
    low = {k: t.loc['finetune', 'miou - fine_only: low'] for k,t in tables.items()}
    helps = re.search(r'Coarse outlines help.*?\. - ', text)[0]
    assert re.findall(r'\+\d+\.\d', helps)==[f'{o:+.1f}' for o in gain.values()]
    assert low['synthetic']>0>low['tailings'] and 'not beyond doubt' in helps
    ahead = pd.concat({k: 100*t['miou - finetune: difference'] for k,t in tables.items()}, axis=1)
    assert 'by 2 points on both data sets' in text and not (ahead>=2).all(axis=1).any()
    attentive = [tables[k].loc['minec2f', [f'miou - uniform: {o}' for o in ('low','high')]] for k in tables]
    assert all(low<0<high for low,high in attentive)
    near = (ahead.abs()<=1).all(axis=1).sum()
    assert near==8 and 'eight lie within a point of fine-tuning on both' in text
