#!/usr/bin/env bash
# Measures what the length of a log costs: the latency of inclusion proofs, resident memory and start-up of an authority with ten thousand leaves and of
# one with ten million, and adds them to log.json under target/bench/. The second log takes some 10 GB and ten minutes to make; it is removed
# afterwards. Needs `countersign` built in release mode with the feature `bench`. SMALL and LARGE change the numbers of leaves, TMPDIR where
# the logs lie. Stops what it started.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
bin=${BIN:-$target/release}
results=${RESULTS:-$target/bench}
. "$here/lib.sh"

countersign bench prepare --out "$work/fleet" >/dev/null

# make NAME LEAVES: makes a log.
make() {
    local name=$1 leaves=$2
    make_token "log$name"
    start_authority "log$name" --signer pkcs11 --token "log$name" --pin-file "$work/pin"
    countersign admin --profile "$work/log$name/admin.toml" policy activate "$root/deploy/policy/demo" >/dev/null
    mkdir "$work/gateways$name"
    countersign admin --profile "$work/log$name/admin.toml" gateway --name reader --out "$work/gateways$name" >/dev/null
    stop_servers
    echo "filling a log with $leaves leaves"
    RUST_LOG=error countersign bench fill --config "$work/log$name/authority.toml" --leaves "$leaves"
    logs+=(--name "$name" --config "$work/log$name/authority.toml" --gateways "$work/gateways$name")
    logs+=(--url "https://127.0.0.1:$service_port")
}

logs=()
make 10k "${SMALL:-10000}"
make 10m "${LARGE:-10000000}"
# QUIET: a command before the one that measures, such as one that keeps the machine quiet meanwhile.
${QUIET:-} countersign bench large "${logs[@]}" --gateway reader --json "$results/log.json"
rm -rf "$work/log10k" "$work/log10m"

jq '.proof_ratio = (.proof_us_10m / .proof_us_10k * 100 | round / 100)
    | .rss_growth_mib = (([.rss_mib_10m, .rss_after_proofs_mib_10m] | max) - ([.rss_mib_10k, .rss_after_proofs_mib_10k] | max) | . * 10 | round / 10)
    | .startup_ratio = (.startup_ms_10m / .startup_ms_10k * 100 | round / 100)' "$results/log.json" >"$work/log.json"
cp "$work/log.json" "$results/log.json"
echo "reached and wanted, on $(nproc) cores"
row log.json proof_ratio '<=' 2
row log.json rss_growth_mib '<=' 32
row log.json startup_ratio '<=' 1.2
