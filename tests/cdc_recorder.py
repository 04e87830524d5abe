"""Runs a change source alone and prints what it yields, one JSON line per change: its own process, for its own JVM.

`python -m tests.cdc_recorder debezium|pgoutput DSN SLOT DIE_AFTER`: dies by SIGKILL in the middle of the batch that
reaches so many changes (0: never), with nothing of that batch acknowledged. Ends by itself at a message named
`loyalty.end`.
"""

import os
import signal
import sys
import threading

import orjson

from cdc.debezium import DebeziumSettings, DebeziumSource
from cdc.pgoutput import PgoutputSource
from cdc.source import Batch, ChangeSource, SourceEnded


def make_source(kind: str, dsn: str, slot: str) -> ChangeSource:
    if kind == "pgoutput":
        return PgoutputSource(dsn, slot=slot, publication="loyalty")
    return DebeziumSource(dsn, DebeziumSettings(slot=slot, publication="loyalty", poll_interval_ms=5))


def main(kind: str, dsn: str, slot: str, die_after: str) -> None:
    seen = 0
    ended = threading.Event()

    def handle(batch: Batch) -> None:
        nonlocal seen
        for change in batch.changes:
            seen += 1
            print(orjson.dumps(tuple(change)).decode(), flush=True)  # noqa: T201 - it prints for a living
            if seen == int(die_after):
                os.kill(os.getpid(), signal.SIGKILL)
            if change.table == "loyalty.end":
                ended.set()

    source = make_source(kind, dsn, slot)

    def stop_at_end() -> None:
        ended.wait()
        source.stop()

    threading.Thread(target=stop_at_end, daemon=True).start()
    try:
        source.run(handle)
    except SourceEnded as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        os._exit(3)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
