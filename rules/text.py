"""What a text is once it is compared: composed (NFC), trimmed, and of characters that people write.

Refused is what no writing needs and what deceives a reader: control characters, lone surrogates, line and
paragraph separators, bidi overrides. Everything else stands, also what Unicode has not named yet.
"""

import re
from typing import Final
from unicodedata import normalize

REFUSED: Final = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
"""The refused characters but for surrogates, which no JSON Schema can name: a class of a regular expression."""
BLANK: Final = r" \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
"""The characters that are trimmed, likewise."""

_REFUSED: Final = re.compile(rf"[{REFUSED}\ud800-\udfff]")


def canonical_text(text: str) -> str:
    """The text that is stored and compared; ValueError for one with a refused character or without any visible one."""
    if not (text.isascii() and text.isprintable()):
        if _REFUSED.search(text):
            raise ValueError("control characters, line separators and bidi overrides are not allowed")
        text = normalize("NFC", text)
    text = text.strip()
    if not text:
        raise ValueError("must not be blank")
    return text


def composed(text: str) -> str:
    """A text of the program file, in the form of the texts it is compared with."""
    return (text if text.isascii() else normalize("NFC", text)).strip()
