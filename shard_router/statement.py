"""SQL as text in `.sql` files, called by name.

A file is a row of blocks. Each starts with `-- name: find_account`, followed by comment lines that
give its reason, and the statement, up to the next name. Comments stay in the text, so that the
server's log and pg_stat_statements show the name of what runs.
"""

import re
from pathlib import Path
from typing import Final

from shard_router.errors import LoyaltyError

_NAME: Final = re.compile(r"^-- name:[ ]*(\S*)[ ]*$", re.MULTILINE)


class StatementError(LoyaltyError):
    """A file of statements that cannot be used; the message says why."""


def load_statements(package_file: Path) -> dict[str, str]:
    """Read the statements of a file by name, in the file's order.

    For example `STATEMENTS = load_statements(Path(__file__).with_name("store.sql"))`. StatementError for a name
    that is no identifier or stands twice, an empty statement, and text before the first name other than comments.
    """
    preamble, *blocks = _NAME.split(package_file.read_text(encoding="utf-8"))
    if _without_comments(preamble):
        raise StatementError(f"{package_file.name}: text before the first `-- name:`")
    statements: dict[str, str] = {}
    for name, text in zip(blocks[::2], blocks[1::2], strict=True):
        if not name.isidentifier() or name in statements or not _without_comments(text):
            raise StatementError(f"{package_file.name}: {name!r} is no identifier, stands twice or is empty")
        statements[name] = f"-- name: {name}\n{text.strip()}"
    return statements


def _without_comments(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return "".join(line for line in lines if not line.startswith("--"))
