"Packaging, driven by settings.ini: the one place where name, version and requirements stand."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
extras = 'dev', 'lab', 'docs', 'stac', 'ray', 'weights', 'onnx', 'view', 'report', 'distributed', 'terratorch'

class WithNotebooks(build_py):
    "The notebooks that are commands (13g_cli) go into the package"
    def run(self):
        super().run()
        folder = Path(self.build_lib)/'minec2f'/'notebooks'
        self.mkpath(str(folder))
        for o in cfg['command_notebooks'].split(): self.copy_file(str(here/'nbs'/f'{o}.ipynb'), str(folder))

setup(
    name=cfg['lib_name'], version=cfg['version'], license='Apache-2.0', python_requires=f">={cfg['min_python']}",
    description=cfg['description'], keywords=cfg['keywords'], author=cfg['author'], author_email=cfg['author_email'],
    url=cfg['git_url'], packages=find_packages(include=['minec2f', 'minec2f.*']),
    install_requires=cfg['requirements'].split(),
    extras_require={o: cfg[f'{o}_requirements'].split() for o in extras},
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    entry_points=dict(console_scripts=['minec2f=minec2f.cli:main']), cmdclass=dict(build_py=WithNotebooks),
    zip_safe=False,
)
