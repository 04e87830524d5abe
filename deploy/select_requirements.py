#!/usr/bin/env python3
"""Prints the part of requirements.lock that some extras need, with its hashes.

Wanted are the project's dependencies, the extras and packages named as arguments, and whatever these lead to: below
each package the lock says who wants it (`# via`).
"""

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", re.IGNORECASE)


def names(requirements: Iterable[str]) -> set[str]:
    """The package names of requirement lines, as the lock spells them."""
    found = (NAME.match(line) for line in requirements)
    return {match[0].lower().replace("_", "-").replace(".", "-") for match in found if match}


def select(lock: str, wanted: set[str]) -> str:
    """The entries of the lock that `wanted` leads to; KeyError when one of them has none."""
    entries = defaultdict[str, str](str)  # a package may have several, each for other versions of Python
    for text in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]:
        entries[NAME.match(text)[0]] += text
    parents = {name: names(re.findall(r"^ +#(?: +via)? +(\S+)", text, re.MULTILINE)) for name, text in entries.items()}
    if unknown := wanted - entries.keys():
        raise KeyError(f"not in the lock: {', '.join(sorted(unknown))}")
    chosen = set(wanted)
    while more := {name for name in entries if parents[name] & chosen} - chosen:
        chosen |= more
    return "".join(entries[name] for name in sorted(chosen))


def main() -> None:
    """Write the selection to standard output."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [line for name in sys.argv[1:] for line in extras.get(name, [name])]
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    sys.stdout.write(select(lock, names([*project["dependencies"], *wanted])))


if __name__ == "__main__":
    main()
