#!/usr/bin/env bash
# Says aloud, before and after the tests, that the real-world vectors aren't there: tests that need them then do with the project's own (tpm/vectors) and
# with what they make themselves, and pass. In CI it ends the run.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
if [ -n "${VECTORS+set}" ]; then
    found="$VECTORS"
else
    # As the tests look for them: beside the repository, and above.
    found=""
    for above in .. ../.. ../../..; do
        [ -z "$found" ] && [ -d "$root/$above/shared/vectors" ] && found="$root/$above/shared/vectors"
    done
fi
[ -d "$found" ] && exit 0
cat >&2 <<TEXT
################################################################################
#                                                                              #
#   THE REAL-WORLD VECTORS ARE ABSENT (VECTORS=${VECTORS-unset})
#                                                                              #
#   Boot logs, quotes, IMA lists and EK certificates of real machines are NOT  #
#   tested. The tests do with the project's own vectors (tpm/vectors, made by  #
#   a software TPM) and pass without the others. Set VECTORS to their folder.  #
#                                                                              #
################################################################################
TEXT
[ -z "${CI+set}" ]
