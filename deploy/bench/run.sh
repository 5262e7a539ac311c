#!/usr/bin/env bash
# Measures an authority of its own on this machine and writes one JSON file per bench under target/bench/:
#   issue.json           head key in a SoftHSM token, log in SQLite
#   log.json             leaves a second that each kind of store takes, on one core (PostgreSQL's own processes on the others); what checking costs; how
#                        long a revocation takes to the other replicas (revocations.sh); what large.sh adds stays
#   issue-slow-key.json  the same with a key that takes 200 ms for a signature, as a hardware TPM does
#   evidence.json        verification of a quote, of its signature alone, of an IMA list, and of a boot log: a real one of 34 KB if VECTORS names the
#                        real-world vectors; requests that share a quote (shared_quote.sh)
# Needs `countersign` built in release mode with the feature `bench` (see the Makefile). A speed that is missed is printed and doesn't fail; an error of
# any call does. SECONDS_MEASURED, HOSTS and SLOW_HOSTS change the load. Stops what it started.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
bin=${BIN:-$target/release}
results=${RESULTS:-$target/bench}
seconds=${SECONDS_MEASURED:-20}
hosts=${HOSTS:-128}
slow_hosts=${SLOW_HOSTS:-1000}
. "$here/lib.sh"

# measure NAME FILE OPTIONS..
measure() {
    local name=$1 file=$2
    shift 2
    countersign bench issue --url "https://127.0.0.1:$service_port" --profile "$work/$name/admin.toml" --fleet "$work/fleet" \
        --server-pid "$server" --seconds "$seconds" --json "$results/$file" "$@" || failed=1
}

ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
countersign bench prepare --out "$work/fleet" >/dev/null
failed=0

real_log=${VECTORS:-$root/../shared/vectors}/eventlog/go-tpm-tools/rhel8-uefi.bin
if [ -f "$real_log" ]; then
    countersign bench evidence --boot-log "$real_log" --json "$results/evidence.json"
else
    countersign bench evidence --json "$results/evidence.json"
fi
"$here/shared_quote.sh" || failed=1
echo "evidence: $(jq -c . "$results/evidence.json")"
echo

echo "log: 1,000-leaf batches of 512-byte leaves, three trees, on one core"
start_postgres
mkdir "$work/log"
taskset -c 0 countersign bench log --dir "$work/log" --postgres "$pg_dir" --postgres-database bench --postgres-user postgres \
    --json "$work/appends.json" || failed=1
stop_postgres
"$here/revocations.sh" "$work/revocations.json" || failed=1

echo
echo "issue: SoftHSM, SQLite, $hosts hosts, $seconds s"
make_token issue
start_authority issue --signer pkcs11 --token issue --pin-file "$work/pin"
measure issue issue.json --hosts "$hosts"
stop_servers
countersign bench check --store "$work/issue/log.sqlite" --trust-bundle "$work/issue/trust-bundle.json" --json "$work/checks.json" || failed=1
# One document of the log: what was appended, and what was checked.
[ -f "$work/revocations.json" ] || echo '{}' >"$work/revocations.json"
jq -s add "$work/appends.json" "$work/checks.json" "$work/revocations.json" >"$work/log.json"
# Figures of `make bench-large` stay.
[ -f "$results/log.json" ] || echo '{}' >"$results/log.json"
jq -s add "$results/log.json" "$work/log.json" >"$work/all.json"
cp "$work/all.json" "$results/log.json"

echo
echo "issue-slow-key: 200 ms for a signature, SQLite, $slow_hosts hosts, $seconds s"
start_authority slow --signer danger-software --danger-delay-ms 200
measure slow issue-slow-key.json --hosts "$slow_hosts" --warmup-seconds 5
stop_servers

echo
echo "reached and wanted, on $(nproc) cores with the generator beside the authority"
if [ -f "$results/issue.json" ]; then
    echo "issue.json"
    row issue.json cpu_ratio '<=' 4
    row issue.json artifacts_per_s '>=' 2000
    row issue.json p99_ms '<=' 250
    row issue.json server_rss_mib '<' 200
    row issue.json errors '=' 0
fi
if [ -f "$results/issue-slow-key.json" ]; then
    echo "issue-slow-key.json"
    row issue-slow-key.json amplification '>=' 200
    row issue-slow-key.json server_rss_mib '<' 200
    row issue-slow-key.json errors '=' 0
fi
echo "log.json"
jq '.artifact_check_ratio = (.artifact_check_us / .ed25519_verify_us * 100 | round / 100)' "$results/log.json" >"$work/log.json"
cp "$work/log.json" "$results/log.json"
row log.json sqlite_leaves_per_s '>=' 40000
row log.json postgres_leaves_per_s '>=' 20000
row log.json artifact_check_ratio '<=' 0.33
row log.json audit_leaves_per_s '>=' 100000
row log.json revocation_visible_p99_ms '<=' 100
echo "evidence.json"
jq '.quote_ratio = (.quote_verify_us / .bare_signature_us * 100 | round / 100)' "$results/evidence.json" >"$work/evidence.json"
cp "$work/evidence.json" "$results/evidence.json"
row evidence.json quote_ratio '<=' 1.3
row evidence.json boot_log_us '<=' 300
row evidence.json ima_entries_per_s '>=' 2000000
row evidence.json ima_incremental_10_us '<=' 20
row evidence.json requests_per_quote '>=' 2
exit "$failed"
