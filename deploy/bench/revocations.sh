#!/usr/bin/env bash
# Measures how long a revocation takes from the answer of one authority until the others over the same PostgreSQL refuse what was revoked and publish
# it to gateways. Writes members of log.json into the file that its argument names. Needs `countersign` built in release mode with the feature
# `bench`. REVOCATIONS and REPLICAS change the load. Stops what it started.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
bin=${BIN:-$target/release}
results=${RESULTS:-$target/bench}
out=${1:-$results/log.json}
replicas=${REPLICAS:-3}
. "$here/lib.sh"

countersign bench prepare --out "$work/fleet" >/dev/null
start_postgres
make_token shared
init_authority first --signer pkcs11 --token shared --pin-file "$work/pin" \
    --postgres "$pg_dir" --postgres-database bench --postgres-user postgres
ca=$work/first/ca.pem
serve_authority first "$service_port"
others=()
for number in $(seq 2 "$replicas"); do
    port=$(free_port)
    mkdir -m 700 "$work/replica-$number"
    # The same configuration with listeners and a state directory of its own.
    sed -e "s/^listen = \"127.0.0.1:$service_port\"/listen = \"127.0.0.1:$port\"/" \
        -e "s/^listen = \"127.0.0.1:$admin_port\"/listen = \"127.0.0.1:$(free_port)\"/" \
        "$work/first/authority.toml" >"$work/replica-$number/authority.toml"
    chmod 600 "$work/replica-$number/authority.toml"
    countersign authority join --config "$work/replica-$number/authority.toml" --trust-bundle "$work/first/trust-bundle.json" \
        >"$work/replica-$number-join.log" 2>&1
    serve_authority "replica-$number" "$port"
    others+=(--replica "https://127.0.0.1:$port")
done
mkdir "$work/gateways"
for name in revoked reader; do
    countersign admin --profile "$work/first/admin.toml" gateway --name "$name" --out "$work/gateways" >/dev/null
done
countersign bench revocations --profile "$work/first/admin.toml" "${others[@]}" --gateways "$work/gateways" --revoked revoked --reader reader \
    --count "${REVOCATIONS:-300}" --json "$out"
