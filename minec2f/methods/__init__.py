"What there is to train a student with. Importing this package makes every method known by its name."
from . import attentive, baselines, incremental, branches, replay, adapt, plus, relatives  # noqa: F401
