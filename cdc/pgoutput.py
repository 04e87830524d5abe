"""The native change source: psycopg2's replication cursor and a decoder of pgoutput, protocol version 1.

A transaction arrives whole, after its commit. The thread that reads applies it: to hand each batch to another and wait
took a quarter of the projector's CPU. While that one waits for Valkey the walsender hears keep-alives with the old
position, so that it neither gives us up nor forgets WAL.
Formats: PostgreSQL 18 manual, 54.9 "Logical Replication Message Formats".
"""

import select
import struct
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

import psycopg2
from psycopg2.extras import LogicalReplicationConnection

from cdc.source import OUR_PREFIX, Batch, Change, Handle, Operation, SourceEnded

BATCH_CHANGES_MAX: Final = 512
KEEP_ALIVE_S: Final = 1.0  # wal_sender_timeout is 10 s
_EPOCH_2000_US: Final = 946_684_800_000_000  # pgoutput counts microseconds from 2000-01-01

_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")
_BEGIN: Final = struct.Struct(">qqI")  # final lsn, commit time, xid
_COMMIT: Final = struct.Struct(">bqqq")  # flags, commit lsn, end lsn, commit time
_MESSAGE: Final = struct.Struct(">bq")  # flags, lsn
_FRAMES: Final = b"BCR"  # without them what follows would be misread
_COLUMN: Final = struct.Struct(">ii")  # type oid, type modifier


def utc_timestamp(text: str) -> str:
    """RFC 3339 with `Z` from the text of a timestamptz in a UTC session; six fractional digits or none."""
    moment = text.removesuffix("+00").replace(" ", "T")
    return (moment.ljust(26, "0") if "." in moment else moment) + "Z"  # 26: through the microseconds


_CONVERTERS: Final[Mapping[int, Callable[[str], Any]]] = {
    16: lambda text: text == "t",  # bool
    20: int,  # int8
    21: int,  # int2
    23: int,  # int4
    1184: utc_timestamp,  # timestamptz
}


class Relation(NamedTuple):
    """A table as the stream announced it: name, then name, converter and key membership of each column."""

    table: str
    columns: tuple[tuple[str, Callable[[str], Any], bool], ...]


class Decoder:
    """Turns pgoutput messages into changes; keeps the relations announced, and of which transaction the changes are."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._committed_at_us = 0
        self._xid = 0
        self.committed_lsn = 0
        """Just past the beginning of the last commit: up to here Postgres may forget.

        Were it the commit's end, psycopg2 would move it on with keep-alives by itself, beyond what was applied.
        """
        self._decode_of = {
            b"B"[0]: self._begin,
            b"C"[0]: self._commit,
            b"R"[0]: self._relation,
            b"I"[0]: self._insert,
            b"U"[0]: self._update,
            b"D"[0]: self._delete,
            b"M"[0]: self._message,
        }

    def decode(self, payload: bytes, lsn: int) -> list[Change]:
        """The changes of one message: none, one, or two for an update of a primary key (a delete and an insert)."""
        decode = self._decode_of.get(payload[0])  # origin, type and truncate tell nothing a view needs
        try:
            return decode(payload, lsn) if decode else []
        except Exception as error:
            if payload[0] in _FRAMES:
                raise
            return [self._change("?", "unread", {"why": f"{type(error).__name__}: {error}"}, lsn)]

    def _change(self, table: str, operation: Operation, row: dict[str, Any], lsn: int) -> Change:
        return Change(table, operation, row, self._committed_at_us, lsn, self._xid)

    def _begin(self, payload: bytes, _lsn: int) -> list[Change]:
        _, committed_at_us, self._xid = _BEGIN.unpack_from(payload, 1)
        self._committed_at_us = committed_at_us + _EPOCH_2000_US
        return []

    def _commit(self, payload: bytes, _lsn: int) -> list[Change]:
        _, commit_lsn, _, _ = _COMMIT.unpack_from(payload, 1)
        self.committed_lsn = commit_lsn + 1
        return []

    def _relation(self, payload: bytes, _lsn: int) -> list[Change]:
        (oid,) = _INT32.unpack_from(payload, 1)
        _, at = _text(payload, 5)
        table, at = _text(payload, at)
        (count,) = _INT16.unpack_from(payload, at + 1)  # past the replica identity
        at += 3
        columns: list[tuple[str, Callable[[str], Any], bool]] = []
        for _ in range(count):
            is_key = bool(payload[at] & 1)
            name, at = _text(payload, at + 1)
            type_oid, _ = _COLUMN.unpack_from(payload, at)
            at += _COLUMN.size
            columns.append((name, _CONVERTERS.get(type_oid, str), is_key))
        self._relations[oid] = Relation(table, tuple(columns))
        return []

    def _insert(self, payload: bytes, lsn: int) -> list[Change]:
        relation = self._relations[_INT32.unpack_from(payload, 1)[0]]
        row, _ = _tuple(payload, 6, relation)
        return [self._change(relation.table, "insert", row, lsn)]

    def _update(self, payload: bytes, lsn: int) -> list[Change]:
        relation = self._relations[_INT32.unpack_from(payload, 1)[0]]
        kind, at = payload[5], 6
        old: dict[str, Any] = {}
        if kind != b"N"[0]:
            old, at = _tuple(payload, at, relation)
            at += 1
        row, _ = _tuple(payload, at, relation)
        if kind != b"K"[0]:
            return [self._change(relation.table, "update", row, lsn)]
        return [self._removed(relation, old, lsn), self._change(relation.table, "insert", row, lsn)]

    def _delete(self, payload: bytes, lsn: int) -> list[Change]:
        relation = self._relations[_INT32.unpack_from(payload, 1)[0]]
        old, _ = _tuple(payload, 6, relation)
        return [self._removed(relation, old, lsn)]

    def _removed(self, relation: Relation, old: dict[str, Any], lsn: int) -> Change:
        key = {name: old[name] for name, _, is_key in relation.columns if is_key and name in old}
        return self._change(relation.table, "delete", key, lsn)

    def _message(self, payload: bytes, lsn: int) -> list[Change]:
        prefix, at = _text(payload, 1 + _MESSAGE.size)
        if not prefix.startswith(OUR_PREFIX):
            return []
        return [self._change(prefix, "message", {"content": payload[at + _INT32.size :].decode()}, lsn)]


class PgoutputSource:
    """Streams from a slot that exists and that nobody holds."""

    def __init__(self, dsn: str, *, slot: str, publication: str) -> None:
        self._dsn = dsn
        self._slot = slot
        self._publication = publication
        self._stopping = False
        self._ended = threading.Event()
        self._ended.set()

    def run(self, handle: Handle) -> None:
        """Stream until `stop`; any other end raises SourceEnded."""
        self._ended.clear()
        try:
            with closing(_connect(self._dsn)) as connection:
                self._stream(connection.cursor(), handle)
        except (psycopg2.Error, OSError) as error:
            raise SourceEnded(f"replication: {error}") from error
        finally:
            self._ended.set()

    def stop(self) -> None:
        """Return when the stream has ended: within the keep-alive interval, unless a batch is held up."""
        self._stopping = True
        self._ended.wait()

    def _stream(self, cursor: Any, handle: Handle) -> None:
        options = {"proto_version": "1", "publication_names": self._publication, "messages": "true"}
        cursor.start_replication(slot_name=self._slot, decode=False, options=options, status_interval=int(KEEP_ALIVE_S))
        decoder = Decoder()
        with _kept_alive(cursor) as ours:
            while not self._stopping:
                changes = _read(cursor, decoder)
                if changes:
                    position = max(decoder.committed_lsn, changes[-1].lsn)
                    ours.release()
                    try:
                        handle(Batch(changes, position))
                    finally:
                        ours.acquire()
                    cursor.send_feedback(flush_lsn=decoder.committed_lsn)
                elif not select.select([cursor], [], [], KEEP_ALIVE_S)[0]:
                    cursor.send_feedback(force=True)
        cursor.send_feedback(force=True)


@contextmanager
def _kept_alive(cursor: Any) -> Generator[threading.Lock]:
    """Have another thread say each second that we live while nobody holds the lock, which whoever uses the cursor does.

    It is given locked. What breaks meanwhile the holder meets when it goes on.
    """
    ours, ended = threading.Lock(), threading.Event()

    def keep_alive() -> None:
        while not ended.wait(KEEP_ALIVE_S):
            if ours.acquire(blocking=False):
                try:
                    cursor.send_feedback(force=True)
                except psycopg2.Error:
                    return
                finally:
                    ours.release()

    ours.acquire()
    thread = threading.Thread(target=keep_alive, name="keep-alive", daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ended.set()
        thread.join()


def _connect(dsn: str) -> Any:
    # Rows must read the same whatever the server's or the role's defaults are.
    options = "-c TimeZone=UTC -c DateStyle=ISO -c statement_timeout=0"
    return psycopg2.connect(dsn, connection_factory=LogicalReplicationConnection, options=options)


def _read(cursor: Any, decoder: Decoder) -> list[Change]:
    """What has arrived, up to a batch; a long transaction is cut, its parts are acknowledged with its commit."""
    changes: list[Change] = []
    while len(changes) < BATCH_CHANGES_MAX and (message := cursor.read_message()):
        changes += decoder.decode(message.payload, message.data_start)
    return changes


def _text(payload: bytes, at: int) -> tuple[str, int]:
    end = payload.index(0, at)
    return payload[at:end].decode(), end + 1


def _tuple(payload: bytes, at: int, relation: Relation) -> tuple[dict[str, Any], int]:
    """TupleData at `at`, and where it ends."""
    row: dict[str, Any] = {}
    at += 2  # the column count, which the relation told
    for name, convert, _ in relation.columns:
        kind = payload[at]
        at += 1
        if kind == 0x74:  # t: text  # noqa: PLR2004
            start = at + 4
            at = start + _INT32.unpack_from(payload, at)[0]
            try:  # noqa: SIM105 - on the hot path, where suppress() would cost more than the rest of the line
                row[name] = convert(payload[start:at].decode())
            except ValueError:  # as absent as what did not travel
                pass
        elif kind == 0x6E:  # n: null; otherwise u: unchanged out of line, absent  # noqa: PLR2004
            row[name] = None
    return row, at
