#!/usr/bin/env bash
# with-resource-manager.sh COMMAND..: runs the command with a TPM resource manager before the TPM at TPM2TOOLS_TCTI, as a kernel has at
# /dev/tpmrm0. A TPM in software has none, and its three object slots are too few for a TLS handshake with one of its keys.
set -euo pipefail

if [ -z "${INSIDE_SESSION:-}" ]; then
    # A message bus of its own, so that runs beside each other don't meet.
    INSIDE_SESSION=1 exec dbus-run-session -- "${BASH_SOURCE[0]}" "$@"
fi

as_root=()
[ "$(id -u)" -ne 0 ] || as_root=(--allow-root)
log=$(mktemp)
tpm2-abrmd --session "${as_root[@]}" --flush-all "--tcti=$TPM2TOOLS_TCTI" >"$log" 2>&1 &
manager=$!
end() {
    kill "$manager" 2>/dev/null || true
    wait "$manager" 2>/dev/null || true
    rm -f "$log"
}
trap end EXIT

export TPM2TOOLS_TCTI=tabrmd:bus_type=session TSS2_LOG=all+none
deadline=$((SECONDS + 30))
until tpm2_getcap properties-fixed >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$manager" 2>/dev/null; then
        echo "the resource manager doesn't answer: $(cat "$log")" >&2
        exit 3
    fi
    sleep 0.02
done
"$@"
