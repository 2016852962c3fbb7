# `make demo`, `make test`, `make lab`, `make docs`: each sets up a virtual environment of the project's own first.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
# `make test CONSTRAINTS=` takes the newest versions, with RESOLUTION=lowest-direct the oldest that settings.ini promises
RESOLUTION ?= highest
BIN := .venv/bin
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
# one thread a process: several processes that each take all cores slow each other down many times over
TEST_ENV := OMP_NUM_THREADS=1

.venv/installed: settings.ini setup.py pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minec2f needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --resolution $(RESOLUTION) \
		$(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev,stac,ray,weights,onnx,view,report,distributed]'
	touch $@

# Jupyter only for those who ask for it
.venv/lab: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[lab]'
	touch $@

# The site is made from the sources: it needs neither torch nor the package's other requirements
.venv/docs: settings.ini $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(addprefix --constraint ,$(CONSTRAINTS)) $$(sed -n 's/^docs_requirements = //p' settings.ini)
	touch $@

.PHONY: install demo test lab docs clean
install: .venv/installed

demo: install
	# through a pipe: papermill would cut off a log file that it was given as its standard output
	$(BIN)/papermill nbs/train.ipynb runs/demo.ipynb -p profile demo -p out runs/demo --stdout-file /dev/stdout --no-progress-bar | cat

test: install
	$(BIN)/ruff check
	$(BIN)/python -m pytest -q tests/test_sync.py
	# some at a time: a process keeps in memory what each of its notebooks has made
	for o in '0[0-2]' 03 '0[4-9]' '1[01]' '1[2-9]' '[a-z]'; do \
		$(TEST_ENV) $(BIN)/nbdev_test --n_workers 2 --timing --file_glob "$$o*.ipynb" || failed=1; \
	done; test -z "$$failed"
	$(TEST_ENV) $(BIN)/python -m pytest -q -rs --durations=5 -n 2 --dist loadfile tests

# further options in LAB: make lab LAB='--no-browser --port 8890'
lab: .venv/lab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs $(LAB)

docs: .venv/docs
	PYTHONPATH=. $(BIN)/python docs/pages.py _docs/source
	PYTHONPATH=. $(BIN)/sphinx-build -W --keep-going --quiet -c docs _docs/source _docs/html
	@echo 'the site is in _docs/html: open index.html, or (for the search) python -m http.server -d _docs/html'

clean:
	rm -rf .venv _docs runs/*
