"""Idempotency keys: how they are written, and whose they are.

Keys of API keys are the organisation's: any till may send what another began. A member's own live in
that member's name space, so that nobody's phone takes the key of a till, nor hears what became of it.
"""

import re
from typing import Final

from service.credential import Principal
from shard_router.member_id import format_member_id

KEY: Final = r'^("[!#-~]{1,255}"|(?!""$)[!-~]{1,255})$'
"""A key as a header has it: visible ASCII characters, bare or quoted (a structured string). An empty one in quotes is
none: whoever forgot to fill it in would send all commands under one key."""
_KEY: Final = re.compile(r'"([!#-~]{1,255})"|((?!""$)[!-~]{1,255})')


def parse_key(text: str) -> str | None:
    """The key of its text, bare or quoted (a structured string); None when it is none."""
    match = _KEY.fullmatch(text)
    return (match[1] or match[2]) if match else None


def stored_key(principal: Principal, key: str) -> str:
    """The name under which a principal's answer is stored. No key has a blank, so none reaches into another space."""
    return key if principal.member_id is None else f"member:{format_member_id(principal.member_id)} {key}"
