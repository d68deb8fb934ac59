# Two commands for everything: `make run` and `make test`. Each builds .venv first where it is missing.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help run test lint check fix bench soak
help:  ## these words
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 10

run: .venv/installed  ## train; ARGS="loss.beta=0.2 train=smoke" passes overrides on
	@$(BIN)/python -m recipes.run $(ARGS)

test: .venv/complete  ## run every test
	@$(BIN)/pytest $(ARGS)

lint: .venv/complete  ## ruff, mypy strict, and the floors
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

check: lint test  ## both of the above

fix: .venv/complete  ## mend what ruff can mend
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: .venv/installed  ## measure against stock TRL; ARGS="--rows 20000" passes options on
	@$(BIN)/python -m recipes.benchmark data $(ARGS)

soak: .venv/complete  ## an hour of random kills and restarts; ARGS="--minutes 5" for less
	@$(BIN)/python -m tests.faults.soak $(ARGS)

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (the first time takes minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable .
	@touch $@

.venv/complete: .venv/installed
	@echo "installing what tests and checks need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test]'
	@touch $@
