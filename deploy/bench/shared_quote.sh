#!/usr/bin/env bash
# Measures how many requests one quote serves: an authority, an agent, a TPM that takes 200 ms for a quote, and runtimes that ask without a pause. Adds
# `requests_per_quote` to evidence.json under target/bench/. Needs `countersign` built in release mode with the feature `bench`, and
# `boot-simulator` (see the Makefile). RUNTIMES and SECONDS_MEASURED change the load. Stops what it started.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
bin=${BIN:-$target/release}
results=${RESULTS:-$target/bench}
work=$(mktemp -d "${TMPDIR:-/tmp}/countersign-bench.XXXXXX")
chmod 700 "$work"
. "$root/deploy/demo/lib.sh"
. "$root/deploy/demo/parts.sh"
export TSS2_LOG=all+none SOFTHSM2_CONF=$work/softhsm2.conf PATH=$bin:$PATH COUNTERSIGN_PROFILE=$work/authority/admin.toml

finish() {
    local status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        for log in authority agent slow_tpm; do
            [ -f "$work/$log.log" ] && { say "--- last lines of $log"; tail -n 15 "$work/$log.log"; }
        done
    fi
    stop_all
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

mkdir -p "$work/tokens" "$results"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$SOFTHSM2_CONF"
(umask 077 && head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/pin")
make_tpm host
boot "$host_port" "$work/boot.log" 1
start slow_tpm python3 "$here/slow_tpm.py" "$host_port" 200 "$work/slow.port" "$work/quotes"
wait_for 10 test -s "$work/slow.port"
make_token recovery
make_token authority
cat "$work/ek-ca/swtpm-localca-rootca-cert.pem" >"$work/ek-roots.pem"
service_port=$(free_port)
admin_port=$(free_port)
countersign authority init --dir "$work/authority" --origin quote.bench.example/log --trust-domain bench.example \
    --listen "127.0.0.1:$service_port" --admin-listen "127.0.0.1:$admin_port" --ek-root "$work/ek-roots.pem" \
    --pkcs11-module "$(ls /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | head -n 1)" \
    --recovery-token recovery --recovery-pin-file "$work/pin" --signer pkcs11 --token authority --pin-file "$work/pin" >"$work/init.log" 2>&1
python3 "$here/limits.py" "$work/authority/authority.toml"
start authority countersign authority serve --config "$work/authority/authority.toml"
wait_for 15 curl -sf --cacert "$work/authority/ca.pem" "https://127.0.0.1:$service_port/livez"

cat >"$work/agent.toml" <<CONF
authority = "https://127.0.0.1:$service_port"
trust_bundle = "$work/authority/trust-bundle.json"
state_dir = "$work/agent"
tcti = "$(tcti "$(cat "$work/slow.port")")"
ek_profile = "rsa2048"
ek_intermediates = ["$work/ek-ca/issuercert.pem"]
boot_log = "$work/boot.log"
socket = "$work/agent.sock"

[[runtime]]
uid = $(id -u)
name = "bench/worker"
actions = ["exec"]
audiences = ["gate-1"]
max_ttl_secs = 120
CONF
mkdir -m 700 -p "$work/agent"
countersign agent enrol --config "$work/agent.toml" --token "$(countersign admin join-token --ttl-secs 300 2>/dev/null)" >/dev/null
start agent countersign agent run --config "$work/agent.toml"
attested() { countersign admin hosts --json | jq -e '.[0].evidence != null'; }
wait_for 30 attested
countersign admin references capture "$(countersign admin hosts --json | jq -r '.[0].host')" --set fleet --activate >/dev/null
countersign admin policy activate "$root/deploy/policy/demo" >/dev/null

countersign bench agent --agent "$work/agent.sock" --audience gate-1 --quotes "$work/quotes" --runtimes "${RUNTIMES:-128}" \
    --seconds "${SECONDS_MEASURED:-10}" --json "$results/evidence.json"
