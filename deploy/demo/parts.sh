# The hardware of the demo, in software: swtpm for the host's (and the authority's) TPM, SoftHSM for tokens. Sourced, not run.

# make_tpm NAME: a TPM with endorsement keys certified by a CA of its own; runs it and sets NAME_port.
make_tpm() {
    local name=$1 state="$work/$1.tpm" port try
    mkdir -p "$state" "$work/ek-ca"
    cat >"$state/localca.conf" <<CONF
statedir = $work/ek-ca
signingkey = $work/ek-ca/signkey.pem
issuercert = $work/ek-ca/issuercert.pem
certserial = $work/ek-ca/certserial
CONF
    printf -- '--platform-manufacturer Demo\n--platform-version 1\n--platform-model demo\n' >"$state/localca.options"
    cat >"$state/setup.conf" <<CONF
create_certs_tool= /usr/bin/swtpm_localca
create_certs_tool_config = $state/localca.conf
create_certs_tool_options = $state/localca.options
active_pcr_banks = sha256,sha384
CONF
    swtpm_setup --tpm2 --tpm-state "dir://$state" --config "$state/setup.conf" --createek --create-ek-cert \
        --create-platform-cert --lock-nvram --pcr-banks sha256,sha384 --vmid "$name" --overwrite >"$work/$name.setup.log" 2>&1
    # The control port must be the next one: try pairs until one is free.
    for try in 1 2 3 4 5 6 7 8; do
        port=$(free_port)
        start "$name" swtpm socket --tpm2 --tpmstate "dir=$state" --server "type=tcp,port=$port,bindaddr=127.0.0.1" \
            --ctrl "type=tcp,port=$((port + 1)),bindaddr=127.0.0.1" --flags not-need-init,startup-clear
        if wait_for 3 swtpm_ioctl --tcp "127.0.0.1:$((port + 1))" -c; then
            printf -v "${name}_port" '%s' "$port"
            return
        fi
        stop "$name"
    done
    say "no pair of ports for $name"
    exit 1
}

tcti() { printf 'swtpm:host=127.0.0.1,port=%s' "$1"; }

# boot PORT LOG SEED: extends what firmware would have measured and writes its log.
boot() {
    local extends
    mapfile -t extends < <("$bin/boot-simulator" "$2" "$3")
    # Several registers a call, but not any number of them.
    printf '%s\n' "${extends[@]}" | xargs -n 8 tpm2_pcrextend -T "$(tcti "$1")"
}

# make_token LABEL: a SoftHSM token; sets LABEL_dir to where it lives on disk.
make_token() {
    local before
    before=$(ls "$work/tokens")
    softhsm2-util --init-token --free --label "$1" --pin "$(cat "$work/pin")" --so-pin "$(cat "$work/pin")" >/dev/null
    printf -v "${1}_dir" '%s' "$work/tokens/$(comm -13 <(printf '%s\n' "$before" | sort) <(ls "$work/tokens" | sort) | grep -v '^$')"
}
