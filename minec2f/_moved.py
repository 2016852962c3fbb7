"Modules that moved into wings are found at their old addresses, too: `minec2f.distill` is `minec2f.methods.distill`."
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader
from warnings import warn

WINGS = dict(
    chipping = 'sources plan imagery cut catalog',
    world    = 'fileserver land scenes labelnoise archive',
    methods  = 'distill attentive structure gradcam baselines incremental branches replay adapt plus',
    study    = 'compare results ladder falsify stress calibration shift binned shiftdata paper paperdata')
MOVED = {f'minec2f.{name}': f'minec2f.{wing}.{name}' for wing,names in WINGS.items() for name in names.split()}

class OldAddresses(MetaPathFinder, Loader):
    "Asked last, for a module that no other finder knows"
    def find_spec(self, name, path=None, target=None):
        return spec_from_loader(name, self) if name in MOVED else None

    def create_module(self, spec): return None # Python's own empty one, which gives way below

    def exec_module(self, module):
        old = module.__name__
        warn(f'{old} is now {MOVED[old]}; the old name works until 0.1.', DeprecationWarning, stacklevel=2)
        sys.modules[old] = import_module(MOVED[old])

def install():
    if not any(isinstance(o, OldAddresses) for o in sys.meta_path): sys.meta_path.append(OldAddresses())
