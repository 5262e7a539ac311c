#!/usr/bin/env bash
# Measures an authority of its own on this machine and writes one JSON file per bench under target/bench/:
#   issue.json           head key in a SoftHSM token, log in SQLite
#   log.json             leaves a second that each kind of store takes, on one core (PostgreSQL's own processes on the others); what checking costs
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
work=$(mktemp -d "${TMPDIR:-/tmp}/countersign-bench.XXXXXX")
chmod 700 "$work"
mkdir -p "$results"
export PATH=$bin:$PATH
export SOFTHSM2_CONF=$work/softhsm2.conf
server=

stop_server() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

# The newest PostgreSQL that is installed; a server of the bench's own, never another one.
pg_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
pg_dir=$work/postgres

# as_postgres PROGRAM ARGUMENTS..: PostgreSQL refuses to run as root.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups -- "$pg_bin/$1" "${@:2}"
    else
        "$pg_bin/$1" "${@:2}"
    fi
}

start_postgres() {
    mkdir "$pg_dir"
    if [ "$(id -u)" -eq 0 ]; then
        chown postgres: "$pg_dir"
        chmod 711 "$work"
    fi
    (cd "$pg_dir" && as_postgres initdb -D "$pg_dir/data" -A trust -U postgres -E UTF8 --no-locale >/dev/null &&
        as_postgres pg_ctl -D "$pg_dir/data" -o "-c listen_addresses= -k $pg_dir" -l "$pg_dir/log" -w start >/dev/null)
    "$pg_bin/createdb" -h "$pg_dir" -U postgres bench
}

stop_postgres() {
    [ -f "$pg_dir/data/postmaster.pid" ] || return 0
    (cd "$pg_dir" && as_postgres pg_ctl -D "$pg_dir/data" -m fast -w stop >/dev/null) || true
}

finish() {
    local status=$?
    stop_server
    stop_postgres
    if [ "$status" -ne 0 ]; then
        for log in "$work"/*.log; do
            [ -f "$log" ] && { echo "--- last lines of $(basename "$log")"; tail -n 15 "$log"; }
        done
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# make_token LABEL: in SoftHSM.
make_token() {
    softhsm2-util --init-token --free --label "$1" --pin "$(cat "$work/pin")" --so-pin "$(cat "$work/pin")" >/dev/null
}

# start_authority NAME SIGNER-OPTIONS..: initialises an authority and serves it; sets server, service_port.
start_authority() {
    local name=$1 admin_port deadline
    shift
    service_port=$(free_port)
    admin_port=$(free_port)
    make_token "$name-recovery"
    countersign authority init --dir "$work/$name" --origin "$name.bench.example/log" --trust-domain bench.example \
        --listen "127.0.0.1:$service_port" --admin-listen "127.0.0.1:$admin_port" --ek-root "$work/fleet/ek-root.pem" --ek-profile p256 \
        --pkcs11-module "$module" --recovery-token "$name-recovery" --recovery-pin-file "$work/pin" "$@" >"$work/$name-init.log" 2>&1
    # Bounds that protect a deployment from its hosts would only make the enrolment of a whole fleet at once take longer.
    python3 "$here/limits.py" "$work/$name/authority.toml"
    countersign authority serve --config "$work/$name/authority.toml" >"$work/$name.log" 2>&1 &
    server=$!
    deadline=$((SECONDS + 30))
    until curl -sf --cacert "$work/$name/ca.pem" "https://127.0.0.1:$service_port/livez" >/dev/null; do
        kill -0 "$server" 2>/dev/null || { echo "the authority ended"; exit 1; }
        [ "$SECONDS" -lt "$deadline" ] || { echo "the authority doesn't answer"; exit 1; }
        sleep 0.05
    done
}

# measure NAME FILE OPTIONS..
measure() {
    local name=$1 file=$2
    shift 2
    countersign bench issue --url "https://127.0.0.1:$service_port" --profile "$work/$name/admin.toml" --fleet "$work/fleet" \
        --server-pid "$server" --seconds "$seconds" --json "$results/$file" "$@" || failed=1
}

# row FILE KEY RELATION TARGET: reached against wanted, without judgement beyond arithmetic.
row() {
    jq -r --arg key "$2" --arg relation "$3" --argjson target "$4" '
        .[$key] as $reached
        | (if $reached == null then "not measured"
           elif ($relation == ">=" and $reached >= $target) or ($relation == "<=" and $reached <= $target)
             or ($relation == "<" and $reached < $target) or ($relation == "=" and $reached == $target) then "reached"
           else "missed" end) as $verdict
        | [$key, ($reached | tostring), $relation + " " + ($target | tostring), $verdict] | @tsv' "$results/$1" |
        awk -F '\t' '{ printf "  %-28s %12s   %-10s %s\n", $1, $2, $3, $4 }'
}

module=$(ls /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | head -n 1)
mkdir "$work/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$SOFTHSM2_CONF"
(umask 077 && head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/pin")
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

echo
echo "issue: SoftHSM, SQLite, $hosts hosts, $seconds s"
make_token issue
start_authority issue --signer pkcs11 --token issue --pin-file "$work/pin"
measure issue issue.json --hosts "$hosts"
stop_server
countersign bench check --store "$work/issue/log.sqlite" --trust-bundle "$work/issue/trust-bundle.json" --json "$work/checks.json" || failed=1
# One document of the log: what was appended, and what was checked.
jq -s add "$work/appends.json" "$work/checks.json" >"$results/log.json"

echo
echo "issue-slow-key: 200 ms for a signature, SQLite, $slow_hosts hosts, $seconds s"
start_authority slow --signer danger-software --danger-delay-ms 200
measure slow issue-slow-key.json --hosts "$slow_hosts" --warmup-seconds 5
stop_server

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
echo "evidence.json"
jq '.quote_ratio = (.quote_verify_us / .bare_signature_us * 100 | round / 100)' "$results/evidence.json" >"$work/evidence.json"
cp "$work/evidence.json" "$results/evidence.json"
row evidence.json quote_ratio '<=' 1.3
row evidence.json boot_log_us '<=' 300
row evidence.json ima_entries_per_s '>=' 2000000
row evidence.json ima_incremental_10_us '<=' 20
row evidence.json requests_per_quote '>=' 2
exit "$failed"
