# `make` prints what there is to do. Everything a target needs beyond Go, Node
# and the system's packages is pinned: go.mod, package-lock.json, and for the
# tools internal/tools/go.mod.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

LISTEN       ?= 127.0.0.1:8080
ARGS         ?=
RUN          ?= .
BENCH        ?= .
COUNT        ?= 1
FUZZTIME     ?= 1m
TORTURE_TIME ?= 10m
FAULT_RUNS ?= 20000
SDK_RUNS ?= 2000
TORTURE_SEED ?=

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Modules and npm projects in folders of their own, wherever they appear.
MODULES := $(filter-out internal/tools,$(patsubst %/go.mod,%,$(wildcard internal/*/go.mod)))
NPM     := $(patsubst %/package-lock.json,%,$(wildcard web/package-lock.json web/*/package-lock.json internal/*/package-lock.json))

# go keeps what it built of a tool in its cache, so only the first use compiles.
TOOL := go tool -modfile=$(CURDIR)/internal/tools/go.mod

.PHONY: help
help: ## Print this
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build and start on http://127.0.0.1:8080 (LISTEN=, ARGS= for serve's flags)
	@echo "Starting Athena on http://$(LISTEN), Ctrl-C stops it."
	@exec bin/athena serve --listen $(LISTEN) $(ARGS)

.PHONY: build
build: ## Build bin/athena
	@echo "Building bin/athena $(VERSION) (the first time takes a minute or two)"
	@go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/athena ./cmd/athena

.PHONY: test
test: test-deps test-go test-modules test-web ## Run every test, installing what is missing (RUN= a pattern of Go tests)

.PHONY: test-deps
test-deps:
	@.ci/prepare

# -shuffle prints its seed; -shuffle=SEED repeats an order. The end-to-end
# tests and a short torture are Go tests among the others. Those that run in
# parallel mostly wait, for a lease to pass or a node to drain, so that more of
# them than processors take little of these.
.PHONY: test-go
test-go: npm
	@echo "Go tests with the race detector (the first build takes a few minutes)"
	@mkdir -p .tmp
	@go test -race -shuffle=on -parallel=4 -timeout=12m -run '$(RUN)' ./... 2>&1 | tee .tmp/go-test.txt

.PHONY: test-modules
test-modules: npm
	@for module in $(MODULES); do
		echo "Go tests of $$module"
		(cd "$$module" && go test -race -shuffle=on -timeout=12m -run '$(RUN)' ./... 2>&1) | tee ".tmp/go-test-$${module//\//-}.txt"
	done

# The committed web/dist must be what the sources build, since `go install`
# embeds it without Node.
.PHONY: test-web
test-web: npm build
	@echo "VS Code extension: types, tests with bin/athena, the package"
	(cd web/vscode && npm run --silent check && npm run --silent test)
	cd web
	echo "Web: types, tests, and whether dist is what the sources build"
	npm run --silent check
	npm run --silent test
	rm -rf ../.tmp/dist
	mkdir -p ../.tmp dist
	cp -R dist ../.tmp/dist
	npm run --silent build
	if ! diff -rq ../.tmp/dist dist; then
		echo "web/dist was not what the sources build. It is now: commit it." >&2
		exit 1
	fi

# Every check runs, also after one has failed.
.PHONY: lint
lint: ## Check format, style, dependencies and known mistakes
	@failed=0
	go mod tidy -diff || { echo 'go.mod is not tidy: go mod tidy' >&2; failed=1; }
	echo "golangci-lint (building it the first time takes about three minutes)"
	for module in . $(MODULES); do
		(cd "$$module" && $(TOOL) golangci-lint run --config $(CURDIR)/.golangci.yml ./...) || { echo "in $$module" >&2; failed=1; }
	done
	exit $$failed

# OLD=file compares with an earlier run, which `make bench` leaves in
# .tmp/bench.txt and `make micro` in .tmp/micro.txt.
.PHONY: bench
bench: ## Measure beside a floor, five minutes (BENCH= pattern, COUNT= repetitions, OLD= an earlier result)
	@mkdir -p .tmp
	@go test -run '^$$' -bench '$(BENCH)' -count $(COUNT) -timeout=0 ./internal/bench 2>&1 | tee .tmp/bench.txt
	@if [[ -n "$(OLD)" ]]; then $(TOOL) benchstat "$(OLD)" .tmp/bench.txt; fi

.PHONY: micro
micro: ## Run the benchmarks of single functions (BENCH=, COUNT= and OLD= as above)
	@mkdir -p .tmp
	@go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout=0 $$(go list ./... | grep -v /internal/bench) 2>&1 | tee .tmp/micro.txt
	@if [[ -n "$(OLD)" ]]; then $(TOOL) benchstat "$(OLD)" .tmp/micro.txt; fi

.PHONY: torture
torture: npm ## Torture for long (TORTURE_TIME=10m, TORTURE_SEED= repeats a run; FAULT_RUNS=20000 of random faults, SDK_RUNS=2000)
	@for module in . $(MODULES); do
		packages=$$(cd "$$module" && grep -rl --include='*_test.go' $(addprefix --exclude-dir=,node_modules $(notdir $(MODULES))) '^func TestTorture' . | xargs -r -n1 dirname | sort -u)
		[[ -n "$$packages" ]] || { echo "no test named TestTorture… in $$module" >&2; exit 1; }
		(cd "$$module" && ATHENA_TORTURE_TIME=$(TORTURE_TIME) ATHENA_TORTURE_SEED=$(TORTURE_SEED) ATHENA_SDK_RUNS=$(SDK_RUNS) \
			go test -race -count=1 -v -timeout=0 -run '^TestTorture' $$packages)
	done
	ATHENA_FAULT_RUNS=$(FAULT_RUNS) go test -race -count=1 -v -timeout=0 -run '^TestNoSequenceOfFaults' ./internal/analysis | grep -v '^ *[=-]\+ '

.PHONY: fuzz
fuzz: ## Fuzz every target in turn (FUZZTIME=1m each)
	@.ci/fuzz $(FUZZTIME)

.PHONY: web
web: npm ## Build web/dist
	@cd web && npm run build

.PHONY: vuln
vuln: ## Look for known vulnerabilities that the code can reach (needs vuln.go.dev)
	@.ci/vuln

.PHONY: clean
clean: ## Remove what was built (not data, not web/dist)
	rm -rf bin .tmp web/build web/vscode/build web/vscode/dist $(addsuffix /node_modules,$(NPM))

# npm ci runs again when a lock file changed.
.PHONY: npm
npm: $(NPM:%=%/node_modules/.package-lock.json)

%/node_modules/.package-lock.json: %/package-lock.json
	@echo "npm ci in $*"
	@(cd $* && npm ci --no-audit --no-fund)
	@touch $@
