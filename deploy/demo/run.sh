#!/usr/bin/env bash
# The whole idea on one machine: a host proves its boot state with its TPM, the authority decides, a key inside a token signs, a gateway runs exactly
# that program and nothing else, and the history can be checked by anyone. See README.md. SIGNER=tpm keeps the authority's keys in a TPM.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
signer=${SIGNER:-pkcs11}
work=$(mktemp -d "${TMPDIR:-/tmp}/countersign-demo.XXXXXX")
canary=$work/canary
chmod 700 "$work"
. "$here/lib.sh"
. "$here/parts.sh"

export TSS2_LOG=all+none
export SOFTHSM2_CONF=$work/softhsm2.conf
export PATH=$bin:$PATH
export COUNTERSIGN_PROFILE=$work/authority/admin.toml

finish() {
    local status=$?
    trap - EXIT
    # That nobody reads what is told any more keeps no process alive and no file.
    set +e
    trap '' PIPE
    if [ -n "${KEEP:-}" ] && [ "$status" -eq 0 ]; then
        exit 0 # what runs goes on; the story has said how to talk to it
    fi
    stop_all
    if [ "$status" -ne 0 ]; then
        for log in authority agent; do
            [ -f "$work/$log.log" ] && { say "--- last lines of $log"; tail -n 15 "$work/$log.log"; }
        done
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

. "$here/story.sh"

if [ -n "${KEEP:-}" ]; then
    # The audit was offline: bring the authority and the host back for whoever stays.
    start authority countersign authority serve --config "$work/authority/authority.toml"
    wait_for 15 live
    countersign admin reinstate host "$host" --reason "kept" >/dev/null
    start_agent
    say ""
    say "left running in $work; to talk to it:"
    say "  export SOFTHSM2_CONF=$SOFTHSM2_CONF COUNTERSIGN_PROFILE=$COUNTERSIGN_PROFILE PATH=$bin:\$PATH"
    say "  countersign admin hosts"
    say "  countersign artifact request --agent $work/agent.sock --audience gate-1 --holder-key $work/holder.pem --out $work/mine -- $work/greet $canary you"
    say "  countersign exec --config $work/gate.toml --artifact $work/mine --holder-key $work/holder.pem -- $work/greet $canary you"
    alive=$(for pid in "${pids[@]}"; do if kill -0 "$pid" 2>/dev/null; then printf '%s ' "$pid"; fi; done)
    say "  to stop it: kill $alive; rm -rf $work"
fi

say ""
say "demo: $steps steps, $as_expected as expected"
[ "$steps" -eq "$as_expected" ]
