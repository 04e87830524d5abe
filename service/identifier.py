"""The one form of a phone number and an e-mail address: whoever enrols, looks up, migrates or audits asks here.

What versions before stored otherwise stays findable as it was typed (`forms_of`) until `loyalty respell` has
brought it to this form.
"""

from functools import lru_cache
from typing import Final
from unicodedata import normalize

import idna
import phonenumbers

KINDS: Final = ("card", "phone", "email")

EMAIL_MAX: Final = 254
"""Characters of an address, as RFC 5321 has it; to bring a longer one to its form takes a tenth of a second."""

DOTS: Final = ".\u3002\uff0e\uff61"
"""What IDNA takes for a full stop (RFC 3490, 3.1)."""

_SIGMA: Final = "\u03c3"
_FINAL_SIGMA: Final = "\u03c2"
"""What the capital becomes at the end of a word: with the other one it is one letter."""
_CACHED: Final = 4_096
_FULL_STOPS: Final = str.maketrans(DOTS, "." * len(DOTS))


@lru_cache(_CACHED)
def canonical_phone(text: str) -> str:
    """E.164, without trunk zeros; ValueError for what no numbering plan can have."""
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException as error:
        raise ValueError("there is no such phone number") from error
    if not phonenumbers.is_possible_number(number):
        raise ValueError("there is no such phone number")
    shorter = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return text if shorter == text else canonical_phone(shorter)  # one zero is taken at a time


@lru_cache(_CACHED)
def canonical_email(text: str) -> str:
    """Composed, in small letters, the domain as DNS has it: IDNA, without a dot at its end."""
    local, _, domain = normalize("NFC", normalize("NFC", text).lower()).rpartition("@")
    labels = domain.translate(_FULL_STOPS).removesuffix(".").split(".")
    return f"{local.replace(_FINAL_SIGMA, _SIGMA)}@{'.'.join(map(_label, labels))}"


def _label(label: str) -> str:
    """The A-label. One that IDNA 2008 does not know has its Punycode all the same: some names are older than it."""
    if label.isascii():
        return label
    try:
        return idna.encode(label, uts46=True).decode()
    except idna.IDNAError:
        return "xn--" + label.encode("punycode").decode()


def canonical_identifier(kind: str, text: str) -> str:
    """The form in which a card, phone or e-mail is stored and looked for; ValueError as above."""
    if kind == "phone":
        return canonical_phone(text)
    return canonical_email(text) if kind == "email" else text


def forms_of(kind: str, text: str) -> tuple[str, ...]:
    """What to look for: the canonical form, then the one in which versions before stored what was typed so.

    A phone number that no plan can have has the latter alone.
    """
    before = text.lower() if kind == "email" else text
    try:
        canonical = canonical_identifier(kind, text)
    except ValueError:
        return (before,)
    return (canonical,) if canonical == before else (canonical, before)
