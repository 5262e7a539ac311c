# The two commands of the README are `make demo` and `make test`. Both install what they need by Debian package name.

SIGNER ?= pkcs11
CARGO  ?= cargo
FUZZ_SECONDS ?= 3600
FUZZ_SEED    ?= 1

.PHONY: all packages build demo test soak lint docs bench bench-large fuzz clean

all: build

packages:
	@deploy/packages.sh

build: packages
	$(CARGO) build --locked --release -p countersign

demo: packages
	$(CARGO) build --locked --release -p countersign -p countersign-tests
	SIGNER=$(SIGNER) KEEP=$(KEEP) deploy/demo/run.sh

# The binaries first: end to end tests run them, and `cargo test` builds a package's binaries for that package's own tests only.
# Before and after: where the real-world vectors are absent, that is said aloud.
test: packages lint docs
	@tests/vectors/told.sh
	$(CARGO) build --locked --workspace --all-features --bins
	$(CARGO) test --locked --workspace --all-features; status=$$?; tests/vectors/told.sh; exit $$status

# The simulations of `make test` with 300 fresh seeds for each store, and its kill tests with 500 kills.
soak: packages
	$(CARGO) build --locked --workspace --all-features --bins
	COUNTERSIGN_SEEDS=$(or $(SEEDS),300) $(CARGO) test --locked -p countersign-authority --all-features --lib simulation
	COUNTERSIGN_KILLS=$(or $(KILLS),500) $(CARGO) test --locked -p countersign-tests --all-features --test kill -- --nocapture

lint: packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings

docs: packages
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --all-features --no-deps --quiet

bench: packages
	$(CARGO) build --locked --release -p countersign --features bench
	$(CARGO) build --locked --release -p countersign-tests --bin boot-simulator
	deploy/bench/run.sh

# What a log of ten million leaves costs, against one of ten thousand: some 10 GB of disk and a quarter of an hour.
bench-large: packages
	$(CARGO) build --locked --release -p countersign --features bench
	deploy/bench/large.sh

# Random mutations without coverage feedback, on stable; docs/EVIDENCE.md says what that is worth. An hour over all targets by default.
fuzz: packages
	$(CARGO) build --locked --release -p countersign-tests --bin fuzz
	"$${CARGO_TARGET_DIR:-target}"/release/fuzz $(FUZZ_SECONDS) $(FUZZ_SEED)

clean:
	$(CARGO) clean
