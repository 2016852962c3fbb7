"What a user's first import gives, and what it must not cost."
import subprocess, sys

LAZY = 'geopandas pyogrio shapely pystac_client odc ray terratorch papermill IPython ipywidgets'.split()

def test_learner_imports_without_what_only_some_need():
    code = 'import sys; from minec2f.learner import c2f_learner, teacher_learner; print(*[o for o in %r if o in sys.modules])' % (LAZY,)
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert done.stdout.split()==[]
