#!/bin/bash
# Valkey with its users, whose passwords are mounted as secrets. The configuration travels by a pipe: no file holds it.
set -euo pipefail
hash_of() { printf %s "$(<"/run/secrets/valkey_$1")" | sha256sum | cut -d ' ' -f 1; }
projector=$(hash_of projector) query=$(hash_of query)
exec valkey-server - "$@" < <(sed "s/@projector@/$projector/; s/@query@/$query/" /etc/loyalty/valkey.conf)
