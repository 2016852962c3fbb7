__version__ = "0.0.1"

import warnings as _warnings
from . import _moved
from .docstrings import install as _install

# fastai's, at each import of it
_warnings.filterwarnings('ignore', '`torch.jit.script` is deprecated', FutureWarning, 'torch.jit')
_warnings.filterwarnings('ignore', "The 'mode.chained_assignment' option is deprecated", DeprecationWarning)
_install() # help(f) shows what the comments in the source say
_moved.install()
