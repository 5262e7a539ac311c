# The two commands of the README are `make demo` and `make test`. Both install what they need by Debian package name.

SIGNER ?= pkcs11
CARGO  ?= cargo

.PHONY: all packages build demo test lint docs bench clean

all: build

packages:
	@deploy/packages.sh

build: packages
	$(CARGO) build --locked --release -p countersign

demo: packages
	$(CARGO) build --locked --release -p countersign -p countersign-tests
	SIGNER=$(SIGNER) KEEP=$(KEEP) deploy/demo/run.sh

# The binaries first: end to end tests run them, and `cargo test` builds a package's binaries for that package's own tests only.
test: packages lint docs
	$(CARGO) build --locked --workspace --all-features --bins
	$(CARGO) test --locked --workspace --all-features

lint: packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings

docs: packages
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --all-features --no-deps --quiet

bench: packages
	$(CARGO) build --locked --release -p countersign --features bench
	deploy/bench/run.sh

clean:
	$(CARGO) clean
