# Start with make demo and make test; each sets up the environment if it does not exist.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo
# Some tests wait, for Slurm or for a process: one more than there are cores.
TEST_WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
DEMO_CONFIG := videos=$(DEMO)/videos.csv root=$(DEMO) output=$(DEMO)/results flow='{short_side: 240}'

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint format docs benchmarks gpu install-profile clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "m3flow needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(DEMO)/videos.csv: scripts/demo_clips.py | $(READY)
	$(BIN)/python scripts/demo_clips.py $(DEMO)

demo: $(READY) $(DEMO)/videos.csv ## flow and trajectories of three real clips, with pictures
	$(BIN)/snakemake --quiet host reason rules --config $(DEMO_CONFIG)
	@$(BIN)/snakemake report --quiet all --config $(DEMO_CONFIG)
	@$(BIN)/m3flow show $(DEMO)/clips/street/bikes.mp4 --output $(DEMO)/results --parts 3 --to $(DEMO)/results/bikes.png
	@echo
	@echo "Done. In $(DEMO)/results:"
	@echo "  report.html   the report: open it in a browser"
	@echo "  bikes.png     one clip: frames, flow, camera motion, trajectories"
	@cd $(DEMO)/results && find flows trajs -type f | sort | sed 's/^/  /'

test: $(READY) $(DEMO)/videos.csv ## all tests; those without their requirement (a GPU, Slurm) are skipped with a reason
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --durations 10

test-fast: $(READY) $(DEMO)/videos.csv ## the fast unit tests, for development
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not slow and not slurm and not gpu" tests/unit

lint: $(READY) ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	printf 'clip.mp4 0\n' > $(VENV)/lint-list.txt
	$(BIN)/snakemake --lint --config videos=$(VENV)/lint-list.txt output=$(abspath $(VENV))/lint
	$(BIN)/snakemake --lint --config videos=$(VENV)/lint-list.txt output=$(abspath $(VENV))/lint granularity=shard

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

docs: $(READY) ## the documentation as a site, in site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

PROFILE := $(HOME)/.config/snakemake/slurm

install-profile: ## copy profiles/slurm to where `snakemake --profile slurm` finds it
	@test ! -e $(PROFILE) || { echo "$(PROFILE) exists; edit it, or remove it first"; exit 1; }
	mkdir -p $(dir $(PROFILE))
	cp -r profiles/slurm $(PROFILE)

benchmarks: $(READY) demo ## measure this machine; results in benchmarks/results
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/flow.py
	$(BIN)/python benchmarks/camera.py
	$(BIN)/python benchmarks/camera_hunt.py
	$(BIN)/python benchmarks/extract.py
	$(BIN)/python benchmarks/grey.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/large_motion.py
	$(BIN)/python benchmarks/leaderboard.py
	$(BIN)/python benchmarks/datasets.py
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/accuracy_table.py

gpu: ## measure a machine with a GPU in nine minutes; needs only torch, Triton, NumPy and OpenCV (make PYTHON=… gpu)
	$(PYTHON) benchmarks/gpu.py

clean: ## remove the environment, the demo and caches
	rm -rf $(VENV) $(DEMO) .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis
