# Shared by the demo's parts: telling the story, counting steps, starting and stopping processes. Sourced, not run.

steps=0
as_expected=0
pids=()

say() { printf '%s\n' "$*"; }

# step TITLE: what the next check shows.
step() {
    steps=$((steps + 1))
    printf '%2d. %s\n' "$steps" "$1"
}

ok() {
    as_expected=$((as_expected + 1))
    [ -z "${1:-}" ] || printf '      %s\n' "$1"
}

bad() {
    printf '      NOT AS EXPECTED: %s\n' "$1"
    [ -z "${2:-}" ] || printf '%s\n' "$2" | sed 's/^/      | /'
}

# expect COMMAND..: the command must succeed; its last line is shown.
expect() {
    local output
    if output=$("$@" 2>&1); then
        ok "$(printf '%s\n' "$output" | tail -n 1)"
    else
        bad "$1 failed with status $?" "$output"
    fi
}

# refuse CODE COMMAND..: the command must fail with exactly this code, and the canary must be untouched.
refuse() {
    local code=$1 output before after
    shift
    before=$(canary_count)
    if output=$("$@" 2>&1); then
        bad "it was allowed, expected $code" "$output"
        return
    fi
    after=$(canary_count)
    if [ "$before" != "$after" ]; then
        bad "refused, but something ran" "$output"
    elif printf '%s\n' "$output" | grep -q "^refused: $code: "; then
        ok "refused: $code; nothing ran"
    else
        bad "expected $code" "$output"
    fi
}

# How often the demo's program has run: it adds a line to this file each time.
canary_count() {
    if [ -f "$canary" ]; then wc -l <"$canary"; else echo 0; fi
}

# wait_for SECONDS COMMAND..: asks until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

# start NAME COMMAND..: in the background, its output in NAME.log.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 &
    pids+=($!)
    printf '%s\n' "$!" >"$work/$name.pid"
}

# stop NAME: ends what `start` started, and waits for it.
stop() {
    local pid
    pid=$(cat "$work/$1.pid")
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

stop_all() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
