# The story, step by step. Sourced by run.sh.

case $signer in
    pkcs11 | tpm) ;;
    *) say "SIGNER is pkcs11 or tpm, not $signer"; exit 2 ;;
esac

say "Parts: a TPM with an EK certificate for the host, booted by a simulator; tokens for the authority's keys ($signer)."
mkdir -p "$work/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$SOFTHSM2_CONF"
(umask 077 && head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/pin")
make_tpm host
boot "$host_port" "$work/boot.log" 1
make_token recovery
cat "$work/ek-ca/swtpm-localca-rootca-cert.pem" >"$work/ek-roots.pem"
service_port=$(free_port)
admin_port=$(free_port)

init=(countersign authority init --dir "$work/authority" --origin demo.countersign.example/log
    --trust-domain demo.countersign.example --listen "127.0.0.1:$service_port" --admin-listen "127.0.0.1:$admin_port"
    --ek-root "$work/ek-roots.pem" --pkcs11-module "$(ls /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | head -n 1)"
    --recovery-token recovery --recovery-pin-file "$work/pin")
if [ "$signer" = pkcs11 ]; then
    make_token authority
    init+=(--signer pkcs11 --token authority --pin-file "$work/pin")
else
    make_tpm signer_tpm
    init+=(--signer tpm --tcti "$(tcti "$signer_tpm_port")")
fi

ready() { curl -sf --cacert "$work/authority/ca.pem" "https://127.0.0.1:$service_port/readyz"; }
live() { curl -sf --cacert "$work/authority/ca.pem" "https://127.0.0.1:$service_port/livez"; }
not_ready() { ! ready; }

say ""
say "An authority comes to life"
step "keys are made inside their tokens, custody is read back, configuration and trust bundle are written"
if output=$("${init[@]}" 2>&1); then ok "$(grep '^authority ' <<<"$output")"; else bad "init failed" "$output"; fi
step "an existing authority isn't overwritten"
if output=$("${init[@]}" 2>&1); then
    bad "it was" "$output"
elif grep -q 'never overwritten' <<<"$output"; then
    ok "refused"
else
    bad "refused for another reason" "$output"
fi
step "it serves; without a policy it is alive but not ready"
start authority countersign authority serve --config "$work/authority/authority.toml"
if wait_for 15 live && not_ready; then ok "alive, not ready"; else bad "see authority.log"; fi

say ""
say "A host enrols"
cat >"$work/agent.toml" <<CONF
authority = "https://127.0.0.1:$service_port"
trust_bundle = "$work/authority/trust-bundle.json"
state_dir = "$work/agent"
tcti = "$(tcti "$host_port")"
ek_profile = "rsa-2048"
ek_intermediates = ["$work/ek-ca/issuercert.pem"]
boot_log = "$work/boot.log"
socket = "$work/agent.sock"

[[runtime]]
uid = $(id -u)
name = "demo/worker"
actions = ["exec", "call"]
audiences = ["gate-1"]
max_ttl_secs = 120
may_delegate = true
CONF
mkdir -m 700 -p "$work/agent"
step "a single-use join token is made through the admin API"
if token=$(countersign admin join-token --ttl-secs 300 2>/dev/null); then ok "one token"; else bad "no token"; fi
step "the TPM proves that its attestation key lives beside its certified endorsement key"
expect countersign agent enrol --config "$work/agent.toml" --token "$token"
step "the same token isn't good for a second host"
sed "s|$work/agent\"|$work/agent2\"|" "$work/agent.toml" >"$work/agent2.toml"
mkdir -m 700 -p "$work/agent2"
refuse join-token-invalid countersign agent enrol --config "$work/agent2.toml" --token "$token"
step "the agent attests the host's boot state"
start_agent() {
    rm -f "$work/agent.sock"
    start agent countersign agent run --config "$work/agent.toml"
    wait_for 15 curl -sf --unix-socket "$work/agent.sock" http://agent/v1/status || true
}
start_agent
attested() { countersign admin hosts --json | jq -e '.[0].evidence != null'; }
if wait_for 15 attested; then ok "evidence is in"; else bad "no evidence"; fi
host=$(countersign admin hosts --json | jq -r '.[0].host')

say ""
say "Rules"
step "without a policy every request is denied"
cat >"$work/greet.c" <<'C'
#include <stdio.h>
int main(int argc, char **argv) {
    FILE *canary = fopen(argv[1], "a");
    if (!canary) return 1;
    fprintf(canary, "ran\n");
    printf("greetings from %s\n", argc > 2 ? argv[2] : "nobody");
    return 0;
}
C
gcc -O1 -o "$work/greet" "$work/greet.c"
countersign holder keygen "$work/holder.pem" >/dev/null
ask() { # ask FILE [OPTIONS..] -- PROGRAM ARGS..
    local out=$1
    shift
    countersign artifact request --agent "$work/agent.sock" --audience gate-1 --holder-key "$work/holder.pem" --out "$out" "$@"
}
refuse policy-absent ask "$work/denied" -- "$work/greet" "$canary" "the host"
step "reference values are captured from the enrolled host"
expect countersign admin references capture "$host" --set fleet --activate
step "a Cedar policy that doesn't validate isn't activated"
mkdir -p "$work/bad-policy"
cp "$root/deploy/policy/demo/settings.toml" "$work/bad-policy/"
printf 'permit (principal, action == Action::"exec", resource) when { context.no_such_fact };\n' >"$work/bad-policy/bad.cedar"
refuse policy-invalid countersign admin policy activate "$work/bad-policy"
step "a Cedar policy is validated and activated"
expect countersign admin policy activate "$root/deploy/policy/demo"
step "the authority is ready"
if wait_for 15 ready; then ok "$(ready)"; else bad "not ready"; fi

say ""
say "A program runs"
countersign admin gateway --name gate-1 --out "$work" >/dev/null
cat >"$work/gate.toml" <<CONF
name = "gate-1"
audiences = ["gate-1"]
lease_secs = 30
state_dir = "$work/gate"
trust_bundle = "$work/authority/trust-bundle.json"

[authority]
url = "https://127.0.0.1:$service_port"
client_certificate = "$work/gate-1.cert.pem"
client_key = "$work/gate-1.key.pem"
CONF
mkdir -m 700 -p "$work/gate"
run() { # run ARTIFACT PROGRAM ARGS..
    local artifact=$1
    shift
    countersign exec --config "$work/gate.toml" --artifact "$artifact" --holder-key "$work/holder.pem" -- "$@"
}
step "a runtime asks its agent for an artifact; quote, decision, leaf, one head signature"
expect ask "$work/parent" --ttl-secs 110 --delegate-action exec --delegate-audience gate-1 --delegate-depth 1 --delegate-budget 3 \
    -- "$work/greet" "$canary" "the host"
step "the gateway checks artifact and holder key and runs that very file"
expect run "$work/parent" "$work/greet" "$canary" "the host"
step "a child artifact of the first runs a second program"
cp "$work/greet" "$work/second"
printf '\0' >>"$work/second"
if output=$(ask "$work/child" --ttl-secs 60 --parent "$work/parent" -- "$work/second" "$canary" "its child" 2>&1); then
    expect run "$work/child" "$work/second" "$canary" "its child"
else
    bad "no child artifact" "$output"
fi

say ""
say "What is refused"
step "one byte of the artifact flipped"
python3 - "$work/parent" "$work/flipped" <<'PY'
import base64, sys
lines = open(sys.argv[1]).read().split("\n")
leaf = bytearray(base64.b64decode(lines[1].split(" ")[1]))
leaf[len(leaf) // 2] ^= 1
lines[1] = "extra " + base64.b64encode(leaf).decode()
open(sys.argv[2], "w").write("\n".join(lines))
PY
refuse inclusion-invalid run "$work/flipped" "$work/greet" "$canary" "the host"
step "another program under the same path"
mkdir -p "$work/swap"
cp "$work/greet" "$work/swap/greet"
ask "$work/swapped" -- "$work/swap/greet" "$canary" "the host" >/dev/null
printf '\0' >>"$work/swap/greet"
refuse workload-mismatch run "$work/swapped" "$work/swap/greet" "$canary" "the host"
step "one argument changed"
refuse arguments-mismatch run "$work/parent" "$work/greet" "$canary" "somebody else"
step "an artifact without its holder's key"
countersign holder keygen "$work/thief.pem" >/dev/null
refuse holder-proof-invalid countersign exec --config "$work/gate.toml" --artifact "$work/parent" --holder-key "$work/thief.pem" \
    -- "$work/greet" "$canary" "the host"
step "an action that the policy doesn't permit"
refuse policy-denied ask "$work/denied" --action call -- "$work/greet" "$canary" "the host"
step "an expired artifact"
ask "$work/short" --ttl-secs 1 -- "$work/greet" "$canary" "the host" >/dev/null
sleep 4 # its lifetime and the leeway of 2 s: this is what is shown
refuse expired run "$work/short" "$work/greet" "$canary" "the host"
# The TPM has room for one user's keys, so the agent rests while others talk to the host's.
stop agent
step "a challenge used twice"
refuse challenge-spent countersign agent probe-replay --config "$work/agent.toml"
step "a PCR extended after the reference values were captured"
tpm2_pcrextend -T "$(tcti "$host_port")" "9:sha256=$(printf evil | sha256sum | cut -d' ' -f1),sha384=$(printf evil | sha384sum | cut -d' ' -f1)"
start_agent
refuse boot-log-mismatch ask "$work/denied" -- "$work/greet" "$canary" "the host"
step "after a reboot into the known state the host is trusted again"
stop agent
swtpm_ioctl -i --tcp "127.0.0.1:$((host_port + 1))"
tpm2_startup -T "$(tcti "$host_port")" -c
boot "$host_port" "$work/boot.log" 1
start_agent
if output=$(ask "$work/again" --ttl-secs 100 -- "$work/greet" "$canary" "the host" 2>&1); then
    expect run "$work/again" "$work/greet" "$canary" "the host"
else
    bad "not trusted" "$output"
fi

say ""
say "The signing key's home disappears"
take_away() {
    if [ "$signer" = pkcs11 ]; then mv "$authority_dir" "$work/away"; else kill -STOP "$(cat "$work/signer_tpm.pid")"; fi
}
bring_back() {
    if [ "$signer" = pkcs11 ]; then mv "$work/away" "$authority_dir"; else kill -CONT "$(cat "$work/signer_tpm.pid")"; fi
}
step "token away: the authority says that it isn't ready"
take_away
unsigned() { ask "$work/unsigned" -- "$work/greet" "$canary" "the host"; }
unsigned >/dev/null 2>&1 || true
if wait_for 30 not_ready; then ok "not ready"; else bad "still ready"; fi
step "token away: requests are refused"
refuse signer-unavailable unsigned
step "token back: it heals without a restart"
bring_back
if wait_for 30 ready && wait_for 15 unsigned; then ok "ready again, same process $(cat "$work/authority.pid")"; else bad "still down" "$(unsigned 2>&1)"; fi

say ""
say "Keys rotate"
step "a new head key is made in the token, introduced in the log, activated; the old one signs no more"
countersign admin keys rotate --label head-2 >/dev/null
# The gateway learns of the new key and acknowledges it; that is what the activation waits for.
run "$work/again" "$work/greet" "$canary" "the host" >/dev/null 2>&1 || true
activated() { countersign admin keys list --json | jq -e '[.head[].state] == ["deactivated", "active"]'; }
if wait_for 40 activated; then ok "$(countersign admin keys list --json | jq -c '[.head[] | {alg, state}]')"; else bad "not activated" "$(countersign admin keys list 2>&1)"; fi
step "an artifact from before the rotation still runs"
expect run "$work/again" "$work/greet" "$canary" "the host"
step "an artifact from after the rotation runs"
if output=$(ask "$work/after" --ttl-secs 100 -- "$work/greet" "$canary" "after" 2>&1); then
    expect run "$work/after" "$work/greet" "$canary" "after"
else
    bad "no artifact" "$output"
fi

say ""
say "The host is revoked"
step "revoke it through the admin API"
expect countersign admin revoke host "$host" --reason "demo"
step "its artifacts are refused at the gateway, although they haven't expired"
refuse revoked run "$work/after" "$work/greet" "$canary" "after"
step "it gets no more artifacts"
refuse host-revoked ask "$work/denied" -- "$work/greet" "$canary" "the host"

say ""
say "Anyone can check the history, offline"
stop agent
stop authority
step "the whole log: three trees, every head, control chain, order"
expect countersign audit verify --store "$work/authority/log.sqlite" --trust-bundle "$work/authority/trust-bundle.json"
step "every decision re-derived from its stored evidence"
expect countersign audit replay --store "$work/authority/log.sqlite" --trust-bundle "$work/authority/trust-bundle.json"
