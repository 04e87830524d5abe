"""Beside each Patroni: logical decoding waits for a standby that acknowledges commits, whoever that is just now.

Patroni 4.1 lets any connection that streams acknowledge commits while it knows no standby (`synchronous_standby_names`
is `*`). The projector's is one. With `synchronized_standby_slots` never empty it is sent nothing that no standby has,
so it cannot acknowledge that either. Patroni does not look after this setting before 4.2.
Takes the addresses and the password of node.env. A server that is away or frozen only makes it wait.
"""

import os
import sys
import time
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2 import sql

LOOK_EVERY_S = 1.0
LOOK = Path(__file__).with_name("guard.sql").read_text(encoding="utf-8")


def look(dsn: str) -> str | None:
    """Make the setting what it should be; what it was changed to, None when it stays."""
    with closing(psycopg2.connect(dsn, options="-c statement_timeout=5s")) as server:
        server.autocommit = True
        with server.cursor() as cursor:
            cursor.execute(LOOK)
            found = cursor.fetchone()
            if found is None or found[0] is None or found[0] == found[1]:
                return None
            cursor.execute(sql.SQL("ALTER SYSTEM SET synchronized_standby_slots = {}").format(sql.Literal(found[0])))
            cursor.execute("SELECT pg_reload_conf()")
            return str(found[0])


def main() -> None:
    """Look at this node's server for ever."""
    host, _, port = os.environ["PATRONI_POSTGRESQL_CONNECT_ADDRESS"].rpartition(":")
    user, password = (os.environ[f"PATRONI_SUPERUSER_{name}"] for name in ("USERNAME", "PASSWORD"))
    dsn = psycopg2.extensions.make_dsn(
        host=host, port=port, user=user, password=password, dbname="postgres", connect_timeout=2
    )
    while True:
        try:
            if changed := look(dsn):
                sys.stdout.write(f"logical decoding waits for {changed}\n")
                sys.stdout.flush()
        except psycopg2.Error as error:
            sys.stderr.write(f"{error}".strip() + "\n")
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    main()
