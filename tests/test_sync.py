"The library is what the notebooks export, and the notebooks are clean."
import filecmp, shutil, subprocess, sys
from pathlib import Path

def run(name, folder):
    done = subprocess.run([Path(sys.executable).with_name(name)], cwd=folder, capture_output=True, text=True)
    assert done.returncode==0, done.stderr

def differing(a, b):
    def files(folder): return {p.relative_to(folder) for p in folder.rglob('*') if p.suffix in ('.py', '.ipynb')}
    def same(o): return (a/o).exists() and (b/o).exists() and filecmp.cmp(a/o, b/o, shallow=False)
    return [str(o) for o in sorted(files(a) | files(b)) if not same(o)]

def test_export_and_clean_leave_no_diff(repo, tmp_path):
    shutil.copy(repo/'settings.ini', tmp_path)
    for o in ('nbs', 'minec2f'):
        shutil.copytree(repo/o, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__', '.*', 'runs'))
    run('nbdev_export', tmp_path)
    assert differing(repo/'minec2f', tmp_path/'minec2f')==[], 'run nbdev_export'
    run('nbdev_clean', tmp_path)
    assert differing(repo/'nbs', tmp_path/'nbs')==[], 'run nbdev_clean'
