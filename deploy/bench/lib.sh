# What the benches need of a machine: a directory that goes away, servers of their own that are stopped, tokens, rows of results. Sourced; `here`, `results`
# and `bin` are set before.
work=$(mktemp -d "${TMPDIR:-/tmp}/countersign-bench.XXXXXX")
chmod 700 "$work"
mkdir -p "$results"
export PATH=$bin:$PATH
export SOFTHSM2_CONF=$work/softhsm2.conf
servers=

# Stops every authority that was started.
stop_servers() {
    local pid
    for pid in $servers; do kill "$pid" 2>/dev/null || true; done
    for pid in $servers; do wait "$pid" 2>/dev/null || true; done
    servers=
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
    stop_servers
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

# init_authority NAME OPTIONS..: initialises an authority; sets service_port, admin_port.
init_authority() {
    local name=$1
    shift
    service_port=$(free_port)
    admin_port=$(free_port)
    make_token "$name-recovery"
    countersign authority init --dir "$work/$name" --origin "$name.bench.example/log" --trust-domain bench.example \
        --listen "127.0.0.1:$service_port" --admin-listen "127.0.0.1:$admin_port" --ek-root "$work/fleet/ek-root.pem" --ek-profile p256 \
        --pkcs11-module "$module" --recovery-token "$name-recovery" --recovery-pin-file "$work/pin" "$@" >"$work/$name-init.log" 2>&1
    # Bounds that protect a deployment from its hosts would only make the enrolment of a whole fleet at once take longer.
    python3 "$here/limits.py" "$work/$name/authority.toml"
}

# serve_authority NAME PORT: serves it; sets server.
serve_authority() {
    local name=$1 port=$2 deadline=$((SECONDS + 30))
    countersign authority serve --config "$work/$name/authority.toml" >"$work/$name.log" 2>&1 &
    server=$!
    servers="$servers $server"
    until curl -sf --cacert "$ca" "https://127.0.0.1:$port/livez" >/dev/null; do
        kill -0 "$server" 2>/dev/null || { echo "the authority ended"; exit 1; }
        [ "$SECONDS" -lt "$deadline" ] || { echo "the authority doesn't answer"; exit 1; }
        sleep 0.05
    done
}

# start_authority NAME OPTIONS..: both.
start_authority() {
    init_authority "$@"
    ca=$work/$1/ca.pem
    serve_authority "$1" "$service_port"
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
