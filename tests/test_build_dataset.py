"The road from polygons and an archive to a split dataset, as a user runs it: papermill, with its own archive"
import json, subprocess, sys
from pathlib import Path

import pandas as pd

from minec2f.chips import load_index

REPO = Path(__file__).resolve().parent.parent

def test_build_dataset_notebook(tmp_path):
    out = tmp_path/'out'
    subprocess.run([sys.executable, '-m', 'papermill', 'nbs/build_dataset.ipynb', str(tmp_path/'run.ipynb'), '-p', 'out', str(out), '-p', 'min_side', '64',
                    '--no-progress-bar'], cwd=REPO, check=True, capture_output=True)
    index, errors, card = load_index(out, table='curated.csv'), pd.read_csv(out/'errors.csv'), json.loads((out/'dataset.json').read_text())
    assert len(index)>=5 and (index[['width','height']].min(axis=1)>=64).all() and set(errors['error'])=={'SceneError'}
    assert card['polygons']['sources'][0]['licence'] and card['imagery']['product']=='sentinel2'
    said = (tmp_path/'run.ipynb').read_text()
    assert 'by Ray, the same bytes' in said or 'Ray is not installed' in said
