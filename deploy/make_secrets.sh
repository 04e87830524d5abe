#!/bin/sh
# Makes the passwords that compose.yml mounts, a file each, where there are none. There is no default password.
# Containers read a file as users of their own, so the files are open and their folder is closed.
set -eu
folder=${LOYALTY_SECRETS:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in postgres_superuser postgres_owner postgres_node postgres_reader postgres_projector postgres_standby \
  valkey_projector valkey_query; do
  [ -s "$folder/$name" ] || od -A n -t x1 -N 24 /dev/urandom | tr -d ' \n' >"$folder/$name"
  chmod 644 "$folder/$name"
done
echo "passwords are in $folder"
