from pathlib import Path

import papermill, pytest, torch

REPO = Path(__file__).resolve().parent.parent
REAL = REPO.parent/'shared'/'real'

def pytest_configure(config):
    config.addinivalue_line('markers', 'gpu: needs a CUDA device; skipped, with a word, where there is none')

def pytest_runtest_setup(item):
    if 'gpu' in item.keywords and not torch.cuda.is_available(): pytest.skip('no CUDA device here')

@pytest.fixture
def repo(): return REPO

@pytest.fixture
def real():
    "Folder of real data beside the checkout; nothing of it is part of the project"
    if not REAL.exists(): pytest.skip('no real data at ../shared/real')
    return REAL

def run_notebook(repo, monkeypatch, name, made, **parameters):
    "Run a notebook as a user would, from the checkout; what it printed"
    monkeypatch.chdir(repo)
    nb = papermill.execute_notebook(f'nbs/{name}.ipynb', str(made), parameters, progress_bar=False)
    outputs = [o for cell in nb.cells for o in cell.get('outputs', [])]
    return ''.join(''.join(o.text) for o in outputs if o.output_type=='stream' and o.name=='stdout')
