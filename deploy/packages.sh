#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the demo need; does nothing when all are there.
# Asks nothing: as a user it goes through `sudo -n`.
set -euo pipefail

packages=(
    build-essential pkg-config          # aws-lc-rs and SQLite are C
    libtss2-dev                         # the host's own TPM, through the TCG software stack
    swtpm swtpm-tools tpm2-tools        # a TPM 2.0 in software and the tools to look at it
    softhsm2 opensc                     # a PKCS#11 token in software and pkcs11-tool
    postgresql                          # the store that replicas share; tests start servers of their own
    curl jq python3                     # the demo and the tests of documents
    openssl python3-cryptography        # the second implementation and the client written from the protocol's page
    python3-jwt                         # attestation results are checked with somebody else's library
    tpm2-openssl tpm2-abrmd libtss2-tcti-tabrmd0 dbus-daemon    # the same client's TLS with a key in the TPM
)

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q >/dev/null
"${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
