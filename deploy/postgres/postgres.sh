#!/bin/bash
# One server of a pair; $PEER is the other. Without data it clones its peer, or founds the pair if it may (FOUNDER=yes).
# A former primary whose peer was promoted meanwhile is set aside and cloned anew: the higher timeline wins.
# A folder is renamed when complete, so a half-made one is never used.
# Passwords are files in /run/secrets: the superuser's, and that of the login by which a standby copies its primary, which
# `setup` makes: until then a server that is to clone its peer waits.
set -euo pipefail
SECRETS=/run/secrets
export POSTGRES_PASSWORD
POSTGRES_PASSWORD=$(<"$SECRETS/postgres_superuser")
passfile=/tmp/standby.pgpass
(umask 077 && printf '*:*:*:*:%s\n' "$(<"$SECRETS/postgres_standby")" >"$passfile")
connection="host=$PEER user=loyalty_standby dbname=postgres passfile=$passfile connect_timeout=3"

ask_peer() { psql "$connection" --no-psqlrc --no-align --tuples-only --command "$1"; }

clone() {
  local building="$PGDATA.building"
  rm -rf "$building" && mkdir -p "$(dirname "$PGDATA")"
  # The slot first, so that the peer keeps what this server needs from here on. Refused while the peer is away or a standby.
  until ask_peer "SELECT pg_create_physical_replication_slot('standby', true)
                  WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'standby')" >/dev/null \
    && pg_basebackup --dbname="$connection" --pgdata="$building" --wal-method=stream --slot=standby \
      --checkpoint=fast --no-password; do sleep 1; done
  touch "$building/standby.signal"
  rm -rf "$PGDATA"
  mv "$building" "$PGDATA"
}

# Nothing when the peer is away or a standby.
peer_timeline() {
  ask_peer "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int" 2>/dev/null || true
}

own_timeline() { pg_controldata "$PGDATA" | sed -n "s/^Latest checkpoint's TimeLineID: *//p"; }

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  if [ "${FOUNDER:-no}" != yes ] || pg_isready --quiet --host="$PEER" --timeout=3; then clone; fi
elif [ ! -e "$PGDATA/standby.signal" ] && [ "$(peer_timeline)" -gt "$(own_timeline)" ] 2>/dev/null; then
  echo "promoted meanwhile: $PEER; the data of this server goes to $PGDATA.outdated" >&2
  rm -rf "$PGDATA.outdated" && mv "$PGDATA" "$PGDATA.outdated"
  clone
fi
# All WAL to a folder, for restores (docs/operate.md): each file once, whole, and never another over it.
archive=()
if [ -n "${ARCHIVE:-}" ]; then
  to="$ARCHIVE/%f"
  archive=(-c archive_mode=on -c archive_timeout=60s
    -c "archive_command=if [ -f $to ]; then cmp -s %p $to; else cp %p $to.part && sync $to.part && mv $to.part $to; fi")
fi
# A quarter of the memory this container may have, as the embedded servers take of a machine's (cluster/memory.py).
memory_mb=$(awk '{print int($1 / 1048576)}' /sys/fs/cgroup/memory.max 2>/dev/null || echo 0)
buffers_mb=$((memory_mb / 4 < 96 ? 96 : memory_mb / 4 > 8192 ? 8192 : memory_mb / 4))
exec docker-entrypoint.sh postgres -c config_file=/etc/loyalty/postgresql.conf -c "shared_buffers=${buffers_mb}MB" \
  -c primary_conninfo="host=$PEER user=loyalty_standby dbname=postgres passfile=$passfile application_name=standby" "${archive[@]}" "$@"
