"""The life of a process of ours: settings, log, work, and an end for certain.

Whatever the work leaves behind (a JVM, a thread that hangs, a log that cannot be written) must not keep a process that
has nothing left to do: its supervisor would take it for one that works.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import structlog

from service.log import configure_logging
from service.settings import NodeSettings
from shard_router.errors import DocumentError

Settings = TypeVar("Settings", bound=NodeSettings)
Loop = Callable[[Coroutine[Any, Any, Any]], Any]

FAILED: Final = 1


def run_process(
    name: str, about: str | None, settings: type[Settings], work: Callable[[Settings], Awaitable[int]], *, loop: Loop
) -> NoReturn:
    """`python -m name --config F`: do the work under its settings, then end the process with the status it gives.

    A document that cannot be used is one line on standard error. `loop` runs a coroutine (asyncio.run, uvloop.run).
    """
    try:
        loop(_live(settings.load(_config(name, about)), work))
    except DocumentError as error:
        _say(f"python -m {name}: {error}\n")
    except SystemExit as end:  # argparse has said what is wrong
        _end(end.code if isinstance(end.code, int) else FAILED)
    except BaseException:  # noqa: BLE001 - whatever it is, there is no process yet
        _say(traceback.format_exc())
    finally:
        _end(FAILED)


async def _live(settings: Settings, work: Callable[[Settings], Awaitable[int]]) -> None:
    configure_logging(settings.log_level)
    status = FAILED
    try:
        status = await work(settings)
    except DocumentError as error:
        _say(f"{error}\n")
    except BaseException:  # noqa: BLE001 - whatever it is, the process is over
        structlog.get_logger().exception("process_failed")
    finally:
        # Here, not after the loop's own end: that waits for threads.
        _end(status)


def _config(name: str, about: str | None) -> Path | None:
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.add_argument("--config", type=Path, default=None, help="TOML file; LOYALTY_* variables win over it")
    return parser.parse_args().config


def _say(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(text)


def _end(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
