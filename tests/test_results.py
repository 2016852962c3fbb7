"""The tables in results/ and in the README are those that the recorded results give."""
import runpy
import pytest
from conftest import REPO

@pytest.fixture(scope='module')
def ladder(): return runpy.run_path(str(REPO/'results'/'ladder.py'))

@pytest.mark.parametrize('name', ['synthetic','tailings'])
def test_tables_are_those_of_the_results(ladder, name):
    for file,text in ladder['report'](name).items(): assert (REPO/'results'/file).read_text()==text, f'run python results/ladder.py {name} tables'

def test_every_row_has_every_seed(ladder):
    for name,(*_,flip) in ladder['DATA'].items():
        for seed in (0,1,2):
            found = {o.stem for o in (REPO/'results'/name/f'seed_{seed}').glob('[!.]*.json')}
            assert found==set(ladder['rows'](flip)), (name, seed)

def test_readme_shows_the_summary(ladder): assert ladder['summary']() in (REPO/'README.md').read_text()
