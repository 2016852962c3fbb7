"The road from polygons and an archive to a split dataset, as a user runs it: papermill, with its own archive"
import json, subprocess, sys
from pathlib import Path

import pandas as pd

from minec2f.chips import load_index

REPO = Path(__file__).resolve().parent.parent

def test_build_dataset_notebook(tmp_path):
    out, run = tmp_path/'out', tmp_path/'run.ipynb'
    command = [sys.executable, '-m', 'papermill', 'nbs/build_dataset.ipynb', str(run), '--no-progress-bar']
    given = ['-p', 'out', str(out), '-p', 'min_side', '64']
    subprocess.run([*command, *given], cwd=REPO, check=True, capture_output=True)

    index = load_index(out, table='curated.csv')
    assert len(index)>=5 and (index[['width','height']].min(axis=1)>=64).all()
    assert set(pd.read_csv(out/'errors.csv')['error'])=={'SceneError'}
    card = json.loads((out/'dataset.json').read_text())
    assert card['polygons']['sources'][0]['licence'] and card['imagery']['product']=='sentinel2'
    said = run.read_text()
    assert 'by Ray, the same bytes' in said or 'Ray is not installed' in said
