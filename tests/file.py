"""Files that change under a running process."""

import itertools
import os
import time
from pathlib import Path

CHANGES = itertools.count(1)


def put(file: Path, text: str | None) -> None:
    """Write a file, or take it away (None). Each change has a time of its own, however fast they come."""
    if text is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(text)
        os.utime(file, (time.time(), time.time() + next(CHANGES)))
