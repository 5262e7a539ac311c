#!/usr/bin/env bash
# A host made from docs/PROTOCOL.md and docs/openapi.json alone: curl, tpm2-tools, openssl and a script, and nothing of this repository's programs.
# It enrols, attests, asks for an artifact and verifies what it gets. The section that each step follows stands beside it.
#
#   AUTHORITY=https://host:port TRUST_BUNDLE=file STATE=directory TPM2TOOLS_TCTI=.. BOOT_LOG=file [EK_INTERMEDIATES=pem file] outsider.sh STEP
#
# The TPM is reached through a resource manager: /dev/tpmrm0, or with-resource-manager.sh.
#
#   enrol [TOKEN]                          §12; prints the host identifier. Without a token: renewal, or an endorsement key on the allow-list
#   attest                                 §9.3; prints tier and code
#   artifact AUDIENCE -- PROGRAM ARGS..    §3, §4, §9; writes STATE/artifact and prints the verdict, after having verified the receipt
#   replay                                 sends the last artifact call once more with another request: §4.2
#   refused-quote AUDIENCE -- PROGRAM ..   the same as artifact with a quote over the wrong data: a signed denial
#   anonymous                              a challenge asked for without a certificate; prints the problem's code
#   follow                                 §13.1: pulls the feed and verifies every step, down to the newest head
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
tcti=$TPM2TOOLS_TCTI
export TPM2OPENSSL_TCTI=$tcti TSS2_LOG=all+none PYTHONDONTWRITEBYTECODE=1
mkdir -p "$STATE"
cd "$STATE"

# The EK of the profile that the deployment accepts, where the TCG's provisioning guidance puts an RSA-2048 one, and its certificate.
EK=0x81010001
EK_CERTIFICATE=0x01c00002
# Where this client keeps its own keys.
STORAGE=0x81018000 AK=0x81018001 HOST_KEY=0x81018002

tool() { "$python" "$here/outsider.py" "$@"; }

# post PATH BODY ANSWER [curl options]: sets `status`; the answer is in the file ANSWER.
post() {
    local path=$1 body=$2 answer=$3
    shift 3
    status=$(curl -sS --max-time 60 --cacert ca.pem -o "$answer" -w '%{http_code}' -H 'content-type: application/json' \
        --data-binary "@$body" "$@" "$AUTHORITY$path")
}

# Who a caller is follows from the key of its certificate (§11), and that key is in the TPM: OpenSSL's tpm2 provider signs with it.
as_host() {
    cat >openssl.cnf <<'CNF'
openssl_conf = all
[all]
providers = providers
alg_section = algorithms
[providers]
default = on
tpm2 = on
[on]
activate = 1
[algorithms]
default_properties = ?tpm2.signature
CNF
    OPENSSL_CONF=$STATE/openssl.cnf "$@"
}
post_as_host() { as_host post "$@" --cert host.cert.pem --key host.key.pem; }

expect() {
    [ "$status" = "$1" ] && return
    echo "expected $1, got $status: $(cat "$2")" >&2
    exit 1
}

make_keys() {
    [ -f host.key.pem ] && return
    # AK: restricted, signs, can't leave the TPM (§12.1).
    tpm2_createak -Q -C $EK -c ak.ctx -G ecc -g sha256 -s ecdsa
    tpm2_evictcontrol -Q -C o -c ak.ctx $AK
    # Host key: signs what it is given, can't leave the TPM.
    tpm2_createprimary -Q -C o -G ecc -c storage.ctx
    tpm2_evictcontrol -Q -C o -c storage.ctx $STORAGE
    tpm2_create -Q -C $STORAGE -G ecc:ecdsa-sha256 -u host.tpm.pub -r host.tpm.priv \
        -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign'
    tpm2_load -Q -C $STORAGE -u host.tpm.pub -r host.tpm.priv -c host.ctx
    tpm2_evictcontrol -Q -C o -c host.ctx $HOST_KEY
    # In 5.4, -p writes that the key has an empty password; without it TLS would ask for one.
    tpm2_encodeobject -p -C $STORAGE -u host.tpm.pub -r host.tpm.priv -o host.key.pem
}

enrol() {
    make_keys
    local key
    for key in ek:$EK ak:$AK host:$HOST_KEY; do
        tpm2_readpublic -Q -c "${key#*:}" -f tpmt -o "${key%%:*}.tpmt"
    done
    tpm2_readpublic -Q -c $EK -f der -o ek.der
    tpm2_nvread -C o "$EK_CERTIFICATE" -o ek.cert
    tool begin "${1:-}" "${EK_INTERMEDIATES:-}" >begin.json
    post /v1/enrolments begin.json offer.json
    expect 200 offer.json
    # §12.2: the secret that only the TPM with this EK and this AK can give.
    tool credential offer.json >credential
    tpm2_startauthsession -Q --policy-session -S session.ctx
    tpm2_policysecret -Q -S session.ctx -c e
    tpm2_activatecredential -Q -c $AK -C $EK -i credential -o secret -P session:session.ctx
    tpm2_flushcontext session.ctx
    # tpm2_certify takes no qualifying data: the command as Part 3, 18.2 writes it.
    tool certify-command $HOST_KEY $AK offer.json secret | tpm2_send -o certified
    tool finish certified secret >finish.json
    post "/v1/enrolments/$(tool member enrolment offer.json)" finish.json enrolled.json
    expect 200 enrolled.json
    tool certificates enrolled.json >host.cert.pem
    tool verify-enrolment enrolled.json ek.der
}

challenge() {
    : >empty
    post_as_host /v1/challenges empty challenge.json
    expect 200 challenge.json
}

# quote: over the challenge and the requests of the call, if any; leaves evidence.json.
quote() {
    local selection qualifying
    selection=$(tool selection challenge.json)
    qualifying=$(tool qualifying-data challenge.json "$@")
    tpm2_quote -Q -c $AK -l "$selection" -q "$qualifying" -g sha256 -m quote.attest -s quote.signature
    tpm2_pcrread -Q "$selection" -o quote.pcrs
}

attest() {
    challenge
    quote
    tool call challenge.json inline >call.json
    post_as_host /v1/attestations call.json answer.json
    expect 200 answer.json
    tool verify-attestation answer.json
}

# ask AUDIENCE ACTION PROGRAM ARGS..: one request under a fresh challenge; the boot log goes inline only if the authority lacks it (§9.1).
ask() {
    [ -f holder.pem ] || openssl genpkey -algorithm ed25519 -out holder.pem
    tool request "$@" >request.json
    tool holder-signature request.json >request.signature
    challenge
    quote request.json
    if [ -n "${SPOIL:-}" ]; then
        tpm2_quote -Q -c $AK -l "$(tool selection challenge.json)" -q 00 -g sha256 -m quote.attest -s quote.signature
    fi
    send
}

send() {
    tool call challenge.json by-digest request.json request.signature >call.json
    post_as_host /v1/artifacts call.json answer.json
    if [ "$status" = 422 ] && [ "$(tool member code answer.json)" = evidence-needed ]; then
        tool call challenge.json inline request.json request.signature >call.json
        post_as_host /v1/artifacts call.json answer.json
    fi
    expect 200 answer.json
    tool verify-decision answer.json request.json request.signature artifact
}

# Relying parties start from the pinned bundle: its CA is the one that the server's certificate must be under (§10, §11).
tool ca-certificates "$TRUST_BUNDLE" >ca.pem

step=$1
shift
case $step in
enrol) enrol "${1:-}" ;;
attest) attest ;;
artifact | refused-quote)
    audience=$1
    shift 2
    [ "$step" = artifact ] || SPOIL=yes
    ask "$audience" exec "$@"
    ;;
replay)
    # Another request under the challenge that was spent: neither the challenge nor the quote fits any more.
    tool another-request request.json >request.json.new
    mv request.json.new request.json
    tool holder-signature request.json >request.signature
    send
    ;;
anonymous)
    : >empty
    post /v1/challenges empty answer.json
    expect 401 answer.json
    tool member code answer.json
    ;;
follow)
    status=$(as_host curl -sS --max-time 60 --cacert ca.pem --cert host.cert.pem --key host.key.pem -o feed.json -w '%{http_code}' \
        "$AUTHORITY/v1/feed?size=0&control=0")
    expect 200 feed.json
    tool verify-feed feed.json
    ;;
*)
    echo "unknown step $step" >&2
    exit 2
    ;;
esac
