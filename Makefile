# make reproduce: install, run the default experiment, print its table.   make test, make check: what CI runs.
# make ablations, make compare, make orders: the same with the preset of that name, in experiments/.
.DELETE_ON_ERROR:
.PHONY: install install-test reproduce ablations compare orders test test-fast check bench bench-gpu mutants packages clean

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# What the workflow's rules call is found here, whether or not the environment is activated.
export PATH := $(BIN):$(PATH)
# Every job starts a Python; without bytecode kept, each compiles all over again.
unexport PYTHONDONTWRITEBYTECODE

# What `dvc plots` shows needs no network then.
PLOTS_PAGE = $(BIN)/python workflow/plots_page.py $(VENV)/share/plots_page.html

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt workflow/plots_page.py | $(VENV)
	$(PIP_INSTALL) -e '.[pipeline]'
	$(PLOTS_PAGE)
	touch $@

# Without compiling all of it: what the tests import is compiled when it is imported first.
$(VENV)/.installed-test: pyproject.toml constraints.txt workflow/plots_page.py | $(VENV)
	$(PIP_INSTALL) --no-compile -e '.[pipeline,test]'
	$(PLOTS_PAGE)
	touch $(VENV)/.installed $@

# Snakemake is told to be quiet of what the workflow's own lines say: jobs done, running and failed, and the time left.
SNAKEMAKE := snakemake --cores all --rerun-incomplete --quiet rules progress host --

# The report of a workspace, which takes a Snakemake of its own, where something is newer than it.
define REPORT
	@test -e $(1)/results/report.html && \
	  test -z "$$(find $(1)/results workflow/captions -type f -newer $(1)/results/report.html -print -quit)" || \
	  snakemake --directory $(1) --quiet all --report results/report.html
endef

reproduce: install
	$(SNAKEMAKE) reproduce
	$(call REPORT,.)
	@spn verify > /dev/null  # whatever Snakemake planned; the table is printed above
	@echo
	@echo "Sample pictures: results/chains/*/*/samples.png"
	@echo "Report:          results/report.html"
	@echo "MLflow UI:       . $(VENV)/bin/activate && mlflow ui     (then open http://127.0.0.1:5000)"

ablations compare orders: install
	$(SNAKEMAKE) $@
	$(call REPORT,experiments/$@)
	@echo
	@echo "Report:          experiments/$@/results/report.html"
	@echo "MLflow UI:       . $(VENV)/bin/activate && cd experiments/$@ && mlflow ui"

# Two processes, and a third that mostly waits for Slurm; tests of a group share what they start, and so a process.
test: install-test packages
	pytest -n 3 --dist loadgroup --durations 10

# For the inner loop: without the tests that start real tools or take long.
test-fast: install-test
	pytest -n 2 --dist loadgroup -m "not slow"

check: install-test
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint

# Ratios against stated baselines, measured in the same run, on one thread.
bench: install
	OMP_NUM_THREADS=1 python -m benchmarks.cpu

# Runs with the torch that is there, in the environment or outside; nothing is installed.
bench-gpu:
	$(PYTHON) -m benchmarks.gpu

$(VENV)/.installed-mutants: $(VENV)/.installed-test
	$(PIP_INSTALL) --no-compile -e '.[pipeline,mutants]'
	touch $@

# The score and what survived; goes on where it was stopped. How long it takes and how it is read: CONTRIBUTING.md.
mutants: $(VENV)/.installed-mutants
	OMP_NUM_THREADS=1 mutmut run
	mutmut export-cicd-stats && mutmut badge --output mutants/score.json && cat mutants/score.json
	mutmut results

# What the tests drive and pip does not bring, from Debian: a real Chromium, and a real Slurm with its accounting.
PROGRAMS := chromium chromedriver munged slurmctld slurmd slurmdbd squeue mariadbd mariadb-install-db
PACKAGES := chromium chromium-driver munge slurmctld slurmd slurmdbd slurm-client mariadb-server-core mariadb-client-core
packages:
	@PATH="$$PATH:/usr/sbin"; (for program in $(PROGRAMS); do command -v $$program >/dev/null || exit 1; done) || { \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends $(PACKAGES); }

clean:
	rm -rf $(VENV) .snakemake data results runs logs mlflow mlflow.db mlruns experiments test-output mutants
