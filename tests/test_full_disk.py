"A disk that fills up leaves nothing behind: no half raster, map, layer, bundle, data set or archive."
import json, subprocess, sys
from pathlib import Path

SCRIPT = Path(__file__).with_name('full_disk.py')

def test_full_disk_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, '-W', 'ignore', SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    for name,results in json.loads(done.stdout.splitlines()[-1]).items():
        for error,left,complete in results:
            if error: assert name in error and 'could not be written' in error and left==[]
            else: assert complete
        errors = [error for error,_,_ in results]
        assert errors[0] and errors[1] and not errors[-1]
