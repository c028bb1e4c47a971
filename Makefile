# All targets use .venv. PYTHON=... selects the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed

.PHONY: help demo test types coverage coverage-python coverage-kernels mutation doc dist sanitize sanitize-address sanitize-thread models clean

help:
	@echo "make demo      track a simulated scan and compare with dipy_track:"
	@echo "               demo/demo.png, demo/comparison/report.html"
	@echo "make test      run the tests"
	@echo "make types     check the annotations (mypy, strict)"
	@echo "make coverage  report lines and branches that no test runs, kernels included (gcc)"
	@echo "make mutation  report changes of some modules that no test detects (mutmut)"
	@echo "make doc       build the site: doc/_build/html/index.html"
	@echo "make dist      build the source archive and a wheel: dist/"
	@echo "make sanitize  run the tests of the kernels with gcc's sanitizers (Linux)"
	@echo "make models    train the shipped models again (about an hour and a half)"
	@echo "make clean     remove all files that these targets make, $(VENV) included"
	@echo "Variable: PYTHON=$(PYTHON), the interpreter that makes $(VENV)"

demo: $(INSTALLED)
	$(VENV)/bin/python doc/demo.py

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest

# mypy must find the commands at the place where they are installed.
types: $(INSTALLED)
	$(VENV)/bin/python -m pip install -q -c constraints.txt mypy
	rm -rf build/types && mkdir -p build/types/dipy_rnn
	cd build/types/dipy_rnn && ln -s ../../../dipy_rnn/* ../../../workflows .
	cd build/types && MYPYPATH=. $(abspath $(VENV))/bin/python -m mypy \
	    --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p dipy_rnn

KERNEL_TESTS := sampling stopping model/test_moving_frame_kernel.py model/test_context_gru.py \
    $(addprefix tracking/test_,predictor.py slots_compiled.py engine.py direction_getter.py look_ahead.py)
# Copy the sources into a temporary folder, to build the kernels with other flags.
SOURCES_APART = set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
    cp -r dipy_rnn workflows setup.py pyproject.toml README.md LICENSE "$$folder"; \
    find "$$folder/dipy_rnn" -name '*.so' -delete -o -name '*.c' -delete; \
    sed -i s/-O3/-O1/ "$$folder/setup.py";

coverage: coverage-python coverage-kernels

# The test of a full disk is left out: there, coverage prints messages of its own.
coverage-python: $(INSTALLED)
	$(VENV)/bin/python -m pip install -q -c constraints.txt coverage
	$(VENV)/bin/python -m coverage erase
	$(VENV)/bin/python -m coverage run -m pytest -q \
	    --deselect tests/workflows/test_cohort.py::test_a_full_disk_is_one_line_and_leaves_nothing
	$(VENV)/bin/python -m coverage combine -q
	$(VENV)/bin/python -m coverage report --fail-under 95

# gcov, in a temporary folder, for one vector width. Branches count only on lines whose
# source has a branch. Loops over Python objects do not count, because Cython adds error
# checks to them.
coverage-kernels: $(INSTALLED)
	$(VENV)/bin/python -m pip install -q -c constraints.txt gcovr
	$(SOURCES_APART) \
	sed -i 's/cythonize(/cythonize(emit_linenums=True, module_list=/' "$$folder/setup.py"; \
	CC=gcc CFLAGS="-g --coverage -DONE_WIDTH" LDFLAGS=--coverage \
	    $(VENV)/bin/python -m pip install -q --no-deps -c constraints.txt \
	    --target "$$folder/built" "$$folder"; \
	(cd tests; PYTHONPATH="$$folder/built" $(abspath $(VENV))/bin/python -m pytest -q \
	    -p no:cacheprovider $(KERNEL_TESTS) tracking/test_tracker.py); \
	cd "$$folder"; $(abspath $(VENV))/bin/python -m gcovr -r . build \
	    --filter '.*dipy_rnn/.*\.(pyx|h)$$' --include-internal-functions \
	    --gcov-ignore-errors=all --fail-under-line 95 --fail-under-branch 95 -s \
	    --exclude-branches-by-pattern \
	    '(?!\s*(if|elif|for|while)\b).*|.*(range\((depth|layers)\)|\bname\b|array\.shape).*'

# Results are kept in mutants/. Unchanged code is not tested again.
mutation: $(INSTALLED)
	$(VENV)/bin/python -m pip install -q -c constraints.txt mutmut
	OMP_NUM_THREADS=1 $(VENV)/bin/mutmut run
	$(VENV)/bin/mutmut results

# Warnings are errors. Unchanged tutorials are not run again.
doc: $(VENV)/doc_installed
	$(VENV)/bin/python -m sphinx -b html -W --keep-going doc doc/_build/html

dist: $(INSTALLED)
	$(VENV)/bin/python -m pip install -q -c constraints.txt build twine
	$(VENV)/bin/python -m build
	$(VENV)/bin/python -m twine check --strict dist/*

sanitize: sanitize-address sanitize-thread
sanitize-address: FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize-address: PRELOAD := libasan.so libstdc++.so.6
sanitize-thread: FLAGS := -fsanitize=thread
sanitize-thread: PRELOAD := libtsan.so
# The kernels are built in a temporary folder. BLAS and torch get one thread each, so
# that the sanitizers do not report their threads.
sanitize-address sanitize-thread: $(INSTALLED)
	$(SOURCES_APART) \
	gcc $(FLAGS) -fPIC -fvisibility=hidden -c tests/openmp_of_threads.c \
	    -o "$$folder/openmp.o"; \
	CC=gcc CFLAGS="-g $(FLAGS)" LDFLAGS="$(FLAGS) $$folder/openmp.o" \
	    $(VENV)/bin/python -m pip install -q --no-deps -c constraints.txt \
	    --target "$$folder/built" "$$folder"; \
	cd tests; \
	LD_PRELOAD="$(foreach library,$(PRELOAD),$$(gcc -print-file-name=$(library)))" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
	    TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
	    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH="$$folder/built" \
	    $(abspath $(VENV))/bin/python -m pytest -q -s -p no:cacheprovider \
	    $(KERNEL_TESTS)

# The products of NumPy are small, so more threads of OpenBLAS only wait for each other.
models: $(INSTALLED)
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python -m dipy_rnn.training.shipped_models

clean:
	rm -rf $(VENV) demo build doc/_build doc/generated dist *.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis mutants .coverage*
	find dipy_rnn -name '*.c' -delete -o -name '*.so' -delete
	find . -name __pycache__ -prune -exec rm -rf {} +

KERNELS := $(shell find dipy_rnn -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

# The installation is editable: a change of a .py file needs no new installation.
$(INSTALLED): $(VENV)/bin/python pyproject.toml setup.py constraints.txt $(KERNELS)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/doc_installed: $(INSTALLED)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[doc]"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
