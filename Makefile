# The only entry for people and for CI. Each word sets up .venv by itself; when that is up to date it costs nothing.
PYTHON := .venv/bin/python
READY := .venv/ready
PYTEST := $(PYTHON) -m pytest -q
QUICK := -n logical --maxprocesses 4 -m "not slow and not gpu and not exam"

.PHONY: help demo test test-all fix check bench bench-gpu docs exam clean

help:
	@echo "make demo      train a digit classifier, here and now"
	@echo "make test      the quick tests"
	@echo "make test-all  every test, the slow ones too"
	@echo "make fix       format, and mend what ruff can mend"
	@echo "make check     ruff and the type checker"
	@echo "make bench     what a step costs, beside a hand-written loop and other frameworks (half an hour)"
	@echo "make bench-gpu the same on a GPU, where there is one"
	@echo "make docs      run every code block of README and docs/, follow every link"
	@echo "make exam      the programs of ../shared/exams, where that folder is"

demo: $(READY)
	@$(PYTHON) -m fulmen demo

test: $(READY)
	@$(PYTEST) $(QUICK)

test-all: $(READY)
	@$(PYTEST) -n logical --maxprocesses 4 -m "not exam"

fix: $(READY)
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

check: $(READY)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m pyright

bench: $(READY)
	@$(PYTHON) benchmarks/run.py

bench-gpu: $(READY)
	@$(PYTHON) benchmarks/gpu.py

docs: $(READY)
	@$(PYTEST) tests/docs

exam: $(READY) .venv/exams .venv/peer/ready .venv/published/ready
	@FULMEN_PEER_PYTHON=$(CURDIR)/.venv/peer/bin/python FULMEN_PUBLISHED=$(CURDIR)/.venv/published $(PYTEST) -s -m exam

clean:
	rm -rf .venv

# The first Python of at least 3.10 that can make environments; the stamp is written last, so a torn set-up is made again.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	if ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  for name in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	    if $$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then \
	      found=$$name; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Fulmen needs Python 3.10 or later with its venv module, and found none (on Debian: apt install python3-venv)." >&2; \
	    exit 1; \
	  fi; \
	  echo "Setting up .venv with $$($$found --version). This downloads torch once, so it may take minutes."; \
	  $$found -m venv --clear .venv; \
	fi; \
	$(PYTHON) -m pip install -qq -c constraints.txt -e '.[dev]'; \
	touch $@

# In a folder of its own: beside a CPU torch this torchvision is good for the exams, and breaks torchmetrics' import.
.venv/exams: $(READY)
	@$(PYTHON) -m pip install -qq --no-deps -c constraints.txt --target $@ torchvision
	@touch $@

# Lightning itself, to compare with, on the torch of .venv; and two packages that are built on it.
.venv/peer/ready: $(READY)
	@$(PYTHON) -m venv --clear --without-pip .venv/peer
	@$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$(.venv/peer/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth
	@.venv/peer/bin/python -m pip install -qq -c constraints.txt lightning==2.6.6 pytorch-lightning==2.6.6
	@touch $@

.venv/published/ready: $(READY)
	@$(PYTHON) -m pip install -qq --no-deps --target .venv/published gluonts==0.17.0 lightly==1.6.0 lightly-utils==0.0.2 aenum
	@$(PYTHON) -m pip install -qq -c constraints.txt --upgrade --target .venv/published --no-deps \
	  pandas==3.1.1 pydantic==2.14.3 pydantic_core==2.50.4 annotated-types typing-inspection toolz python-dateutil pytz \
	  six tzdata requests urllib3 certifi charset-normalizer scipy
	@touch $@
