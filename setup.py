"Packaging, driven by settings.ini: the one place where name, version and requirements stand."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
extras = 'dev', 'lab', 'docs', 'stac', 'ray', 'weights', 'report', 'terratorch'

setup(
    name=cfg['lib_name'], version=cfg['version'], license='Apache-2.0', python_requires=f">={cfg['min_python']}",
    description=cfg['description'], keywords=cfg['keywords'], author=cfg['author'], author_email=cfg['author_email'],
    url=cfg['git_url'], packages=find_packages(include=['minec2f', 'minec2f.*']),
    install_requires=cfg['requirements'].split(),
    extras_require={o: cfg[f'{o}_requirements'].split() for o in extras},
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    zip_safe=False,
)
