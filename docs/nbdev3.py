"""Move this project to nbdev 3: `python docs/nbdev3.py`, `make install`, `nbdev-export`, `make test`.

nbdev 3 reads the section [tool.nbdev] of pyproject.toml, which is there already; its own nbdev-migrate-config would
overwrite pyproject.toml and lose most of settings.ini. What is left are versions, and the names of commands."""
import re
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

PINNED = (r'nbdev>=2\S+ fastcore\S+ execnb\S+ ghapi\S+ fastai<\S+ fasttransform\S+ plum-dispatch\S+ fastprogress\S+',
          'nbdev>=3.3,<4 fastcore>=2 fastai>=2.8.12')
REASONS = r'(?ms)^# nbdev 2\.4 is the line.*?(?=^dev_requirements)', ''
READER = r'# Read by nbdev 2.*', '# Read by setup.py; nbdev reads pyproject.toml.'
COMMAND = r'\bnbdev_(export|clean|update|test|install_hooks)\b', lambda m: 'nbdev-'+m[1].replace('_', '-')
OPTIONS = [(r'--path (?=nbs/)', ''), (r'--n_workers', '--n-workers'), (r'--file_glob', '--file-glob')]
CHANGES = {
    'settings.ini': [PINNED, REASONS, READER],
    'Makefile': [COMMAND, *OPTIONS],
    'README.md': [COMMAND],
    'CONTRIBUTING.md': [(r'(?ms)^## nbdev 3\n.*?(?=^## )', ''), COMMAND, *OPTIONS],
    'tests/test_sync.py': [COMMAND, ('settings.ini', 'pyproject.toml')]}

def changed(text, changes):
    for pattern,new in changes: text = re.sub(pattern, new, text)
    return text

def without_versions(text):
    "constraints.txt without what the new line brings in other versions"
    old = 'nbdev|fastcore|execnb|ghapi|fastai|fasttransform|plum-dispatch|fastprogress|fastgit'
    return re.sub(rf'(?m)^({old})==.*\n', '', text)

if __name__=='__main__':
    for name,changes in CHANGES.items():
        path = REPO/name
        path.write_text(changed(path.read_text(encoding='utf-8'), changes), encoding='utf-8')
    path = REPO/'constraints.txt'
    path.write_text(without_versions(path.read_text(encoding='utf-8')), encoding='utf-8')
