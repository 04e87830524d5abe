"""Files the system lives by: written whole or not at all, secrets readable by their owner only."""

import fcntl
import json
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError


def write_atomic(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace the file in one step: a reader, or a crash, sees the old text or the new one. An OSError names it."""
    try:
        _write_atomic(path, text, mode)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _write_atomic(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Any, *, mode: int = 0o644) -> None:
    """Like write_atomic, for a JSON document a person may want to read."""
    write_atomic(path, json.dumps(document, indent=2) + "\n", mode=mode)


def read_json(path: Path) -> Any:
    """The document, or None when the file does not exist; ClusterError says in one line what is wrong with it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ClusterError(f"{path}: {error}") from error


@contextmanager
def in_turn(lock: Path) -> Generator[None]:
    """Hold a lock file, once it is free: for what is read and written again in a moment."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(lock: Path) -> Generator[None]:
    """Hold a lock file; ClusterError when another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ClusterError("another command changes the same just now: try again when it is done") from None
    finally:
        os.close(handle)
