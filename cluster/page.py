"""Pages whose header cannot be: what the checksums of a base backup pass over.

A base backup does not check a page that was written since it began, and takes its word for that: the LSN in its
header. One full of rubbish mostly says so. A page that was never filled is all zeros.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

PAGE: Final = 8192
AT_ONCE: Final = 128  # pages
RELATION: Final = re.compile(r"\d+(_(fsm|vm|init))?(\.\d+)?")
HEADER: Final = Struct("=IIHHHH")  # pd_lsn (its upper and its lower half), checksum, flags, lower, upper
NOTHING: Final = bytes(PAGE)


def impossible_pages(folder: Path, end_lsn: int, bytes_per_s: int) -> list[str]:
    """Where pages lie that a server cannot have written that has no WAL beyond `end_lsn`. Reads slowly; blocks."""
    return [f"{path.relative_to(folder)}:{number}" for path, number in _pages(folder, end_lsn, bytes_per_s)]


def _pages(folder: Path, end_lsn: int, bytes_per_s: int) -> Iterator[tuple[Path, int]]:
    for path in sorted((*folder.glob("base/*/*"), *folder.glob("global/*"))):
        if not RELATION.fullmatch(path.name):
            continue
        try:
            with path.open("rb", buffering=0) as file:
                number = 0
                while some := file.read(AT_ONCE * PAGE):
                    for start in range(0, len(some) - len(some) % PAGE, PAGE):
                        if _is_impossible(some, start, end_lsn):
                            yield path, number
                        number += 1
                    time.sleep(len(some) / bytes_per_s)
        except FileNotFoundError:  # dropped meanwhile
            continue


def _is_impossible(some: bytes, start: int, end_lsn: int) -> bool:
    high, low, _, _, _, upper = HEADER.unpack_from(some, start)
    return (high << 32 | low) > end_lsn or (upper == 0 and some[start : start + PAGE] != NOTHING)
