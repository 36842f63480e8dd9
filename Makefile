# monkeylib: `make help` lists the targets. Each of them works as the first command in a fresh clone.
PYTHON  ?= python3
PROFILE ?= nano
SEED    ?= 0
LAB_ARGS ?=
KILLS   ?= 300
ONLY    ?=
QUICK   ?=
TORTURE_ARGS ?=

VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PIP     := $(BIN)/python -m pip --disable-pip-version-check
LOCKENV := .lock-venv
AUDITENV := .audit-venv
HARNESSENV := .harness-venv
BROWSERENV := .browser-venv
RAYENV  := .ray-venv
DOCSENV := .docs-venv
SITE    := data/cache/site
LOCKED_EXTRAS := synthetic,notebooks,train,pretrained,data,captions,chat,serve,demo,dev

# A kernel of this environment wins over one that the user has installed elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install reproduce ablations test test-notebooks test-alone test-harness test-browser test-ray bench torture docs lab nano-base nano-llava lint lock audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install the locked dependencies and monkeylib (once)

# The stamp is written last, so that an interrupted installation is resumed. `compat` puts the clone on Python's
# path: beside a clone of the name monkeylib, `import monkeylib` would else find that folder, which is no package.
# The last step has Python compile
# what most commands import: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of them would
# compile PyTorch anew. Compiling everything takes as long as the rest of the installation.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("monkeylib needs Python 3.11 or newer, and $(PYTHON) is %d.%d: name another one, as in make PYTHON=python3.12" % v[:2])'
	@rm -f $@
	@echo "Installing the locked environment into $(VENV): about two minutes and 2.1 GB (more where pip takes torch for CUDA), once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --no-compile -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@$(BIN)/python -c 'import monkeylib.monkey, monkeylib.training.finetune, ipykernel.kernelapp, ipywidgets, seaborn'
	@touch $@
	@echo 'Installed. Try: $(BIN)/monkeylib answer data/samples/receipt.png "what is the total?"'

reproduce: $(STAMP) ## run the notebooks in order: PROFILE=nano|smoke|..., SEED=0
	$(BIN)/monkeylib reproduce --profile $(PROFILE) --seed $(SEED)

# SEED counts here only if it is given on the command line: the grid has seeds of its own.
ablations: $(STAMP) ## run the grid of experiments, for hours; interrupt and go on: ONLY=variant SEED=0 PROFILE=nano
	$(BIN)/monkeylib ablations --profile $(PROFILE) $(ONLY:%=--only %) $(if $(filter command line,$(origin SEED)),$(SEED:%=--seed %))

# Four processes on two cores: much of the time, some of them wait for processes that they test.
TEST_PROCESSES ?= 4
NOTEBOOK_TESTS := $(addprefix tests/,test_smoke_series.py test_stated_results.py test_stated_memory.py cli/test_page_commands.py)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:nbval --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## test everything but whole notebooks (NOTEBOOKS=1: with them)
	$(PYTEST) --numprocesses $(TEST_PROCESSES) $(if $(NOTEBOOKS),,$(NOTEBOOK_TESTS:%=--ignore %))

test-notebooks: $(STAMP) ## check what notebooks and pages state, run all notebooks on tiny models, and the code of guides (6 minutes)
	$(PYTEST) --numprocesses 2 $(NOTEBOOK_TESTS)

# Each installs the library anew, from the registries, as where nothing of the repository is.
test-alone: $(STAMP) ## run each notebook alone in an empty folder, where its first cell installs a wheel (15 minutes)
	MONKEYLIB_ALONE=1 $(BIN)/python -m pytest -p no:nbval tests/test_notebooks_alone.py

# In an environment of its own, over that of the library: what harnesses need is no dependency of it.
RAISING_TESTS := $(addprefix tests/raising/,test_bases.py test_collator.py test_families.py)
test-harness: $(HARNESSENV)/.installed ## run lmms-eval, VLMEvalKit, official scorers (CIDEr's needs Java), TRL, bitsandbytes, timm
	OMP_NUM_THREADS=1 $(HARNESSENV)/bin/python -m tests.support.torchvision_operators \
	    pytest tests/integrations tests/evaluation/metrics/test_foreign_scorers.py $(RAISING_TESTS) tests/test_inference.py

$(HARNESSENV)/.installed: $(STAMP) requirements-harness.lock
	@rm -f $@
	@test -x $(HARNESSENV)/bin/python || $(BIN)/python -m venv $(HARNESSENV)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
	    $$($(HARNESSENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/library.pth
	@$(HARNESSENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements-harness.lock
	@touch $@

# In an environment of its own, as that of the harnesses. Chromium comes from the machine, or CHROMIUM names one: it
# is no package. Without it, the tests are skipped, and their summary says so.
BROWSER_TESTS := $(if $(QUICK),tests/browser -k "test_demo or 00_start_here",tests/browser tests/explore/widgets)
test-browser: $(BROWSERENV)/.installed ## drive demo, notebooks, widgets in headless Chromium (QUICK=1: demo and 00; SCREENSHOTS=1: for docs/)
	OMP_NUM_THREADS=1 $(BROWSERENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(BROWSER_TESTS)

$(BROWSERENV)/.installed: $(STAMP) requirements-browser.lock
	@rm -f $@
	@test -x $(BROWSERENV)/bin/python || $(BIN)/python -m venv $(BROWSERENV)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
	    $$($(BROWSERENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/library.pth
	@$(BROWSERENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-compile -r requirements-browser.lock
	@touch $@

# In an environment of its own, as that of the harnesses. `python -m tests.torture ray-kills` runs there, too.
test-ray: $(RAYENV)/.installed ## caption on real Ray: killed workers, its readers and writers (minutes)
	OMP_NUM_THREADS=1 $(RAYENV)/bin/python -m pytest tests/captions/test_ray_engine.py tests/captions/test_ray_datasets.py

$(RAYENV)/.installed: $(STAMP) requirements-ray.lock
	@rm -f $@
	@test -x $(RAYENV)/bin/python || $(BIN)/python -m venv $(RAYENV)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
	    $$($(RAYENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/library.pth
	@$(RAYENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-compile -r requirements-ray.lock
	@touch $@

bench: $(STAMP) ## measure speed and memory against alternatives (20 minutes on 2 cores; QUICK=1: 3 minutes)
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

# In an environment of its own, which needs neither the library's nor torch.
docs: $(DOCSENV)/.installed ## make the site of guides, notebooks and reference, and follow its links (minutes)
	$(DOCSENV)/bin/python docs/site/stage.py $(SITE)/source
	NO_MKDOCS_2_WARNING=1 $(DOCSENV)/bin/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml
	$(DOCSENV)/bin/python docs/site/check_links.py $(SITE)/html
	@echo "Open $(SITE)/html/index.html"

$(DOCSENV)/.installed: requirements-docs.lock
	@rm -f $@
	@test -x $(DOCSENV)/bin/python || $(PYTHON) -m venv $(DOCSENV)
	@$(DOCSENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements-docs.lock
	@touch $@

torture: $(STAMP) ## try broken inputs, full disks, signals and kills (20 minutes): KILLS=300, TORTURE_ARGS=--resume
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --kills $(KILLS) $(TORTURE_ARGS)

# On copies: whoever runs and changes them changes no committed file.
lab: $(STAMP) ## open JupyterLab on copies of the notebooks, in data/lab: LAB_ARGS=--no-browser
	@$(BIN)/python -m ipykernel install --sys-prefix --name monkeylib --display-name monkeylib
	@$(BIN)/monkeylib notebooks data/lab/notebooks
	$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/data/lab/notebooks/00_start_here.ipynb $(LAB_ARGS)

nano-base: $(STAMP) ## train data/models/nano-base from scratch (about six hours on 2 cores)
	$(BIN)/python -m recipes.nano_base.train

nano-llava: $(STAMP) ## train the projector in data/models/nano-llava, on nano-base (under an hour)
	$(BIN)/python -m recipes.nano_llava.train

lint: $(STAMP) ## check the style of the code and of the notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock: ## resolve pyproject.toml into requirements.lock
	rm -rf $(LOCKENV)
	$(PYTHON) -m venv $(LOCKENV)
	$(LOCKENV)/bin/python -m pip install --quiet --editable ".[$(LOCKED_EXTRAS)]"
	@{ echo "# Written by 'make lock' from pyproject.toml: core and the extras $(LOCKED_EXTRAS)."; \
	   $(LOCKENV)/bin/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf $(LOCKENV)

# In an environment of its own: what audits is no dependency of the library.
audit: $(STAMP) ## look for known vulnerabilities of the locked packages, and list their licences
	test -x $(AUDITENV)/bin/python || $(PYTHON) -m venv $(AUDITENV)
	$(AUDITENV)/bin/python -m pip --disable-pip-version-check install --quiet pip-audit pip-licenses
	$(AUDITENV)/bin/pip-licenses --python $(BIN)/python --from=mixed --order=license \
	    --fail-on "GNU General Public License v3 (GPLv3);GNU Affero General Public License v3;GPL-3.0-or-later;AGPL-3.0"
	$(AUDITENV)/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip

clean: ## remove runs, reproduced results, caches and the environment (what is committed stays)
	rm -rf $(VENV) $(LOCKENV) $(AUDITENV) $(HARNESSENV) $(BROWSERENV) $(RAYENV) $(DOCSENV) data/runs data/reproduced data/cache data/results/smoke data/results/*-seed-* *.egg-info .pytest_cache .ruff_cache .hypothesis
