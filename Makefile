# Everything happens in .venv; with PYTHON=... another interpreter makes it.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed

.PHONY: help demo test models clean

help:
	@echo "make demo    track a simulated scan, with dipy_track beside it: demo/demo.png,"
	@echo "             demo/comparison/report.html"
	@echo "make test    run the tests"
	@echo "make models  train the models that ship again (about an hour)"
	@echo "make clean   remove what these made, $(VENV) included"
	@echo "Variables: PYTHON=$(PYTHON), the interpreter that makes $(VENV)"

demo: $(INSTALLED)
	$(VENV)/bin/python doc/demo.py

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest

models: $(INSTALLED)
	$(VENV)/bin/python -m dipy_rnn.training.shipped_models

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache
	rm -f dipy_rnn/*.c dipy_rnn/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

KERNELS := $(wildcard dipy_rnn/*.pyx dipy_rnn/*.pxd dipy_rnn/*.h)

# Editable: a change in a .py file needs no new installation.
$(INSTALLED): $(VENV)/bin/python pyproject.toml setup.py constraints.txt $(KERNELS)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[viz,test]"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
