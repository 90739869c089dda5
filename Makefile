# tinybert: set-up, checks, and the shipped recipes as targets that are real files.

PYTHON ?= python3
VENV   ?= .venv
RUNS   ?= runs
BIN    := $(VENV)/bin
TINYBERT = $(BIN)/tinybert

export RUNS

# Every folder of configs that ends with an export is a target.
RECIPES := $(notdir $(patsubst %/,%,$(dir $(wildcard configs/*/*-export.yaml))))

.PHONY: install $(RECIPES) demo-claims sweep-demo smoke smoke-translation test test-slow test-families test-integrations test-spacy test-flair test-notebook test-runtimes faults wheel check fix docs schemas reference bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# -- pipelines: NAME/manifest.json is written last, so it represents the whole folder -----------------------

# $(call run,NAME): all stages of a recipe, or some with --only; finished ones are skipped, and those with other settings
# are replaced. OVERRIDES are KEY=VALUE settings for every stage, OVERRIDES_distill (and so on) for those of one command.
run = $(TINYBERT) run configs/$(1) --force $(OVERRIDES) $(foreach command,$(COMMANDS),$(OVERRIDES_$(command):%=$(command):%))
COMMANDS := finetune gen-soft-labels distill eval export

$(RECIPES): install
	@$(call run,$@)

# $(call step,NAME,FILE,FILES THAT ITS CONFIGS EXTEND): configs/NAME/3-student.yaml makes NAME/student, after all folders
# that it names. A missed requirement (exit code 5) leaves a complete folder; its manifest gets an old time stamp, so
# that the next make runs the stage again.
define step
$(RUNS)/$(1)/$(call made_by,$(2))/manifest.json: $(2) $(3) $(call named_in,$(2)) | install
	@$$(call run,$(1)) --only $(call made_by,$(2)) >/dev/null || { code=$$$$?; \
	  test $$$$code -ne 5 || touch -t 197001020000 $$@; exit $$$$code; }
endef

made_by  = $(shell basename $(1) .yaml | cut -d- -f2-)
named_in = $(patsubst %,$(RUNS)/%/manifest.json,$(shell sed -n '/^output_dir/d; /^ *\#/d; s/.*:-runs}\/\([a-z0-9/-]*\).*/\1/p' $(1)))
steps    = $(wildcard configs/$(1)/[0-9]-*.yaml)

EXTENDED_sst2-minilm = $(wildcard configs/sst2/*.yaml)
EXTENDED_tinybert-sst2 = configs/sst2/task.yaml
EXTENDED_llm-answers = $(wildcard configs/llm-answers/*.jsonl configs/demo/reviews/*.jsonl)
shared = $(wildcard configs/$(1)/task.yaml configs/$(1)/reviews/*.jsonl) $(EXTENDED_$(1))
$(foreach name,$(RECIPES),$(foreach file,$(call steps,$(name)),$(eval $(call step,$(name),$(file),$(call shared,$(name))))))

# What the README says about the demo, checked on its results.
demo-claims: demo
	@$(BIN)/python experiments/demo_claims.py $(RUNS)/demo

# Students of several shapes from one label dataset, and the cost of each.
sweep-demo: $(RUNS)/sweep-demo/eval/manifest.json
	@$(TINYBERT) report $(RUNS)/sweep-demo/eval --html $(RUNS)/sweep-demo/report.html

$(foreach file,$(call steps,sweep-demo),$(eval $(call step,sweep-demo,$(file),$(call named_in,configs/demo/3-student.yaml) configs/demo/7-eval.yaml)))

# -- checks --------------------------------------------------------------------------------------------------

# loadfile: a model that the tests of a file share is trained once. If a worker crashes, the
# tests end and name the test that it ran: pytest-xdist 3.8 can wait forever for a worker that replaces it.
PYTEST_IN_WORKERS := $(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 0

test: install
	$(PYTEST_IN_WORKERS)

# Tests of minutes: the commands of the documentation, processes that share a run.
test-slow: install
	$(PYTEST_IN_WORKERS) -m slow

# Every stage on a small model of each family that differs from BERT; FAMILY_DATA=path/to/sst2 takes other rows.
FAMILY_DATA ?= configs/demo/reviews

test-families: install
	$(BIN)/python tests/family_runs.py $(FAMILY_DATA) $(RUNS)/families

# An export in other libraries; each target installs what it needs. flair and optimum need transformers 4, so they have
# an environment of their own, with Node's packages in it. Tests are skipped where Node or Chromium is missing.
test-integrations: test-spacy test-notebook test-flair test-runtimes

test-spacy: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[spacy]' build fastapi httpx
	$(PYTEST_IN_WORKERS) -m spacy tests/test_spacy.py tests/test_fastapi.py

test-notebook: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[notebook]'
	$(BIN)/python -m pytest -m notebook tests/test_notebook.py

OLDER := $(VENV)-transformers4

test-flair: install $(OLDER)/installed
	$(BIN)/python tests/integration_models.py $(RUNS)/flair-models
	PYTHONPATH=$(CURDIR) FLAIR_MODELS=$(RUNS)/flair-models $(OLDER)/bin/python -m pytest -m flair tests/test_flair.py

# transformers.js in Node and in Chromium, optimum, sentence-transformers.
test-runtimes: install $(OLDER)/installed
	RUNTIMES=$(abspath $(OLDER)) $(BIN)/python -m pytest -rs tests/test_runtimes.py

$(OLDER)/installed: constraints-transformers4.txt
	test -x $(OLDER)/bin/python || $(PYTHON) -m venv $(OLDER)
	$(OLDER)/bin/python -m pip install --quiet -c constraints-transformers4.txt \
	  torch 'transformers<5' flair 'optimum-onnx[onnxruntime]' sentence-transformers \
	  onnxruntime pydantic pyyaml rich typer filelock psutil pyarrow pytest
	! command -v npm >/dev/null || npm install --silent --prefix $(OLDER) --no-save --ignore-scripts \
	  @huggingface/transformers@4 playwright-core@1
	touch $@

# Damaged files, killed runs, full disks, hostile models: every fault, and the page about them.
faults: install
	$(BIN)/python -m pytest -n auto --max-worker-restart 0 tests/faults/test_faults.py --faults --junitxml $(RUNS)/faults.xml
	$(BIN)/python tests/faults/page.py $(RUNS)/faults.xml docs/reliability.md

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation site, in site/; a page outside of the navigation, and a link without a target, are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The wheel, installed without the repository: what it lacks is an error.
wheel: install
	$(BIN)/python tests/wheel/check.py

# The whole demo with few rows and steps, to test that every stage can read the output of the one before it.
smoke:
	$(MAKE) demo RUNS=$(RUNS)/smoke OVERRIDES='data.max_train_samples=64 data.max_eval_samples=64' \
	  OVERRIDES_finetune='training.max_steps=30 training.learning_rate=2e-4' \
	  OVERRIDES_distill='training.max_steps=30 training.learning_rate=3e-4' \
	  OVERRIDES_gen-soft-labels=check_teacher=false \
	  OVERRIDES_export='verify.min_agreement=0.8 verify.max_metric_drop=0.2'

# The whole cascade of translation, on 4,600 sentences of a made-up language.
smoke-translation:
	$(MAKE) made-up RUNS=$(RUNS)/smoke

schemas: install
	for stage in finetune gen-soft-labels distill eval export recipe; do \
	  $(BIN)/tinybert schema $$stage --json > configs/schemas/$$stage.json || exit 1; done

reference: install
	$(BIN)/tinybert schema --markdown > docs/reference.md
	$(BIN)/python experiments/family_table.py

# tinybert beside its peers, for docs/performance.md: about 20 minutes on 2 cores without other work. SST2_DATA and
# TINYBERT_REFERENCE are paths; BENCH takes options, such as BENCH='--only labelling --force'. A peer that cannot be
# installed is left out, and its row says so.
PEERS := $(abspath $(VENV))/peers

bench: install $(PEERS)/installed
	PYTHONPATH=$(PEERS) $(BIN)/python benchmarks/run_all.py $(BENCH)

$(PEERS)/installed: benchmarks/requirements.txt
	mkdir -p $(PEERS)
	! $(BIN)/python -m pip install --quiet --upgrade --target $(PEERS) --no-deps -r $< || touch $@

clean:
	rm -rf $(RUNS) .pytest_cache .mypy_cache .ruff_cache dist site
	find . -name __pycache__ -prune -not -path './$(VENV)/*' -exec rm -rf {} +
