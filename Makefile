# tinybert: set-up, checks, and the shipped recipes as targets that are real files.

PYTHON ?= python3
VENV   ?= .venv
RUNS   ?= runs
BIN    := $(VENV)/bin
TINYBERT = $(BIN)/tinybert

export RUNS

# Every folder of configs that goes from a teacher to an export is a target.
RECIPES := $(patsubst configs/%/8-export.yaml,%,$(wildcard configs/*/8-export.yaml))

.PHONY: install $(RECIPES) sweep-demo smoke test check fix schemas reference benchmark clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# -- pipelines: NAME/manifest.json is written last, so it stands for the whole folder -----------------------

# OVERRIDES are KEY=VALUE settings for every stage, OVERRIDES_distill (and so on) for one.

$(RECIPES): %: $(RUNS)/%/export/manifest.json
	@$(TINYBERT) report $(RUNS)/$@/eval $(RUNS)/$@/export
	@echo 'pictures, slices, mistakes: $(RUNS)/$@/eval/report.html'

# The same settings again: up to date, or resumed. Other settings (exit code 4): made anew. A gate that was not met (5)
# leaves a whole folder; its manifest is made old, so that the next make asks again, and does not pass it over.
settings = $(2) $(OVERRIDES) $(OVERRIDES_$(1))
run = $(TINYBERT) $(1) $(settings) >/dev/null
forced = $(TINYBERT) $(1) --force $(settings) >/dev/null
stage = $(run) || { code=$$?; if test $$code -eq 4; then $(forced); code=$$?; fi; \
  test $$code -ne 5 || touch -t 197001020000 $@; exit $$code; }

# $(call recipe,NAME,FILES THAT ITS CONFIGS EXTEND): one rule per stage.
define recipe
$(RUNS)/$(1)/teacher/manifest.json: configs/$(1)/1-teacher.yaml $(2) | install
	@$$(call stage,finetune,$$<)
$(RUNS)/$(1)/teacher-labels/manifest.json: configs/$(1)/2-teacher-labels.yaml $(2) \
    $(RUNS)/$(1)/teacher/manifest.json | install
	@$$(call stage,gen-soft-labels,$$<)
$(RUNS)/$(1)/student/manifest.json: configs/$(1)/3-student.yaml $(2) $(RUNS)/$(1)/teacher-labels/manifest.json | install
	@$$(call stage,distill,$$<)
$(RUNS)/$(1)/student-labels/manifest.json: configs/$(1)/4-student-labels.yaml $(2) \
    $(RUNS)/$(1)/student/manifest.json | install
	@$$(call stage,gen-soft-labels,$$<)
$(RUNS)/$(1)/student2/manifest.json: configs/$(1)/5-student2.yaml $(2) $(RUNS)/$(1)/student-labels/manifest.json | install
	@$$(call stage,finetune,$$<)
$(RUNS)/$(1)/student2-plain/manifest.json: configs/$(1)/6-student2-plain.yaml $(2) | install
	@$$(call stage,finetune,$$<)
$(RUNS)/$(1)/eval/manifest.json: configs/$(1)/7-eval.yaml $(2) $(RUNS)/$(1)/teacher/manifest.json \
    $(RUNS)/$(1)/student/manifest.json $(RUNS)/$(1)/student2/manifest.json $(RUNS)/$(1)/student2-plain/manifest.json \
    | install
	@$$(call stage,eval,$$<)
$(RUNS)/$(1)/export/manifest.json: configs/$(1)/8-export.yaml $(2) $(RUNS)/$(1)/eval/manifest.json | install
	@$$(call stage,export,$$<)
endef

EXTENDED_sst2-minilm = $(wildcard configs/sst2/*.yaml)
shared = $(wildcard configs/$(1)/task.yaml configs/$(1)/reviews/*.jsonl) $(EXTENDED_$(1))
$(foreach name,$(RECIPES),$(eval $(call recipe,$(name),$(call shared,$(name)))))

# Students of several shapes from one label dataset, and what each costs.
SHAPES := $(patsubst configs/sweep-demo/%.yaml,%,$(filter-out %-eval.yaml,$(wildcard configs/sweep-demo/[0-9]-*.yaml)))
SWEEP  := $(foreach shape,$(SHAPES),$(RUNS)/sweep-demo/$(shell echo $(shape) | cut -d- -f2-)/manifest.json)

sweep-demo: $(RUNS)/sweep-demo/eval/manifest.json
	@$(TINYBERT) report $(RUNS)/demo/teacher $(RUNS)/sweep-demo --html $(RUNS)/sweep-demo/report.html

define sweep
$(RUNS)/sweep-demo/$(shell echo $(1) | cut -d- -f2-)/manifest.json: configs/sweep-demo/$(1).yaml \
    configs/demo/3-student.yaml $(RUNS)/demo/teacher-labels/manifest.json | install
	@$$(call stage,distill,$$<)
endef
$(foreach shape,$(SHAPES),$(eval $(call sweep,$(shape))))

$(RUNS)/sweep-demo/eval/manifest.json: configs/sweep-demo/7-eval.yaml configs/demo/7-eval.yaml $(SWEEP) | install
	@$(call stage,eval,$<)

# -- checks --------------------------------------------------------------------------------------------------

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The whole demo with a few rows and steps: does every stage still hand over to the next?
smoke:
	$(MAKE) demo RUNS=$(RUNS)/smoke OVERRIDES='data.max_train_samples=64 data.max_eval_samples=64' \
	  OVERRIDES_finetune='training.max_steps=30 training.learning_rate=2e-4' \
	  OVERRIDES_distill='training.max_steps=30 training.learning_rate=3e-4' \
	  OVERRIDES_gen-soft-labels=check_teacher=false \
	  OVERRIDES_export='verify.min_agreement=0.8 verify.max_metric_drop=0.2'

schemas: install
	for stage in finetune gen-soft-labels distill eval export; do \
	  $(BIN)/tinybert schema $$stage --json > configs/schemas/$$stage.json || exit 1; done

reference: install
	$(BIN)/tinybert schema --markdown > docs/reference.md

benchmark: install
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/last_layer.py
	$(BIN)/python benchmarks/labelling.py
	$(BIN)/python benchmarks/distilling.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/augmenting.py

clean:
	rm -rf $(RUNS) .pytest_cache .mypy_cache .ruff_cache dist
	find . -name __pycache__ -prune -not -path './$(VENV)/*' -exec rm -rf {} +
