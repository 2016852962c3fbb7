__version__ = "0.0.1"

from .docstrings import install as _install

_install() # help(f) shows what the comments in the source say
