"""The tables in results/, and what the front page says of them, are what the recorded results give."""
import re, runpy
import pandas as pd, pytest
from conftest import REPO

@pytest.fixture(scope='module')
def ladder(): return runpy.run_path(str(REPO/'results'/'ladder.py'))

LONG = 'synthetic_plenty', 'tailings_long'
DATA = 'synthetic', 'synthetic_plenty', 'tailings', 'tailings_long' # as the front page has them

@pytest.mark.parametrize('name', DATA)
def test_tables_are_those_of_the_results(ladder, name):
    for file,text in ladder['report'](name).items():
        assert (REPO/'results'/file).read_text()==text, f'run python results/ladder.py {name} tables'

def test_every_measured_row_is_one_of_the_ladder(ladder):
    "The rows that all others are held against have three seeds in the tables above"
    for name in ladder['measured']():
        seeds = {}
        for o in (REPO/'results'/name).glob('seed_*/[!.]*.json'): seeds.setdefault(o.stem, set()).add(o.parent.name)
        assert set(seeds)<=set(ladder['rows'](ladder['DATA'][name])), name
        if name in DATA: assert all(len(seeds[o])>=3 for o in ('fine_only','finetune','minec2f')), name
        if name in LONG: assert len(seeds['uniform'])>=3, name

@pytest.mark.parametrize('name', DATA)
def test_readme_shows_the_summary(ladder, name):
    assert ladder['summary'](name) in (REPO/'results'/'README.md').read_text()

@pytest.mark.parametrize('name', ['synthetic','tailings'])
def test_readme_shows_what_batch_normalisation_changes(ladder, name):
    assert ladder['normalised'](name) in (REPO/'results'/'README.md').read_text()

def test_readme_shows_what_pretrained_weights_gave():
    table = runpy.run_path(str(REPO/'results'/'pretrained.py'))['table']()
    assert table in (REPO/'results'/'README.md').read_text()

def test_readme_shows_what_encoders_cost():
    table = runpy.run_path(str(REPO/'results'/'encoders.py'))['table']()
    assert table in (REPO/'results'/'README.md').read_text()

def test_readme_shows_what_chosen_windows_gave():
    table = runpy.run_path(str(REPO/'results'/'review.py'))['table']()
    assert table in (REPO/'results'/'README.md').read_text()

def test_readme_shows_what_better_probabilities_gave():
    table = runpy.run_path(str(REPO/'results'/'probabilities.py'))['table']()
    assert table in (REPO/'results'/'README.md').read_text()

def test_verdict_is_that_of_the_tables():
    "The front page's three lines"
    text = ' '.join((REPO/'README.md').read_text().split())
    tables = {o: pd.read_csv(REPO/'results'/f'{o}_test.csv', index_col='row') for o in DATA}
    gain = {k: 100*t.loc['finetune', 'miou - fine_only: difference'] for k,t in tables.items()}
    bounds = {k: t.loc['finetune', [f'miou - fine_only: {o}' for o in ('low','high')]] for k,t in tables.items()}
    said = re.search(r'Coarse outlines .*?\. - ', text)[0]
    assert re.findall(r'[+−]\d+\.\d', said)==[f'{o:+.1f}'.replace('-', '−') for o in gain.values()]
    assert all(low<0<high for low,high in bounds.values()) and 'Not one is beyond doubt' in said
    normalised = [pd.read_csv(REPO/'results'/f'tailings_{o}.csv', index_col='row') for o in ('valid','test')]
    gain = [100*o.loc['finetune_batchnorm', 'miou - finetune: difference'] for o in normalised]
    assert '{:+.1f} on validation sites, {:+.1f} on test sites'.format(*gain) in text
    attentive = [tables[k].loc['minec2f', [f'miou - uniform: {o}' for o in ('low','high')]] for k in LONG]
    assert all(low<0<high for low,high in attentive) and 'We could not show that attention matters' in text
