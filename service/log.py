"""One JSON object per line on standard error, for every process alike.

A line that cannot be written (a full disk, a reader that is gone) is lost, and nothing else: logging decides over
nothing that happens.
"""

import logging
import os
from contextlib import suppress
from typing import Final

import structlog

STANDARD_ERROR: Final = 2


class Output:
    """Standard error, without a buffer that would keep what could not be written."""

    def write(self, text: str) -> None:
        """Write as much as there is room for."""
        left = text.encode("utf-8", "backslashreplace")
        with suppress(OSError):
            while left:
                left = left[os.write(STANDARD_ERROR, left) :]

    def flush(self) -> None:
        """Nothing is held back."""


def configure_logging(level: str) -> None:
    """Set up structlog for this process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(Output()),  # pyright: ignore[reportArgumentType] - all it needs of a file
        cache_logger_on_first_use=True,
    )
