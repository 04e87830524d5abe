"""Guesses are bounded: whoever names wrong codes or strangers too often waits until the wrong ones are an hour old."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from rules.command import CancelRedemption, Command, SendTransfer, UseRedemption
from rules.outcome import Reason, Refused

WINDOW: Final = timedelta(hours=1)
CODES_MAX: Final = 5
"""Wrong codes of one redemption an hour: of 32^10 codes nobody meets one, and nobody mistypes so often."""
STRANGERS_MAX: Final = 10
"""Receivers that are nobody, per member and hour."""


def guessed(command: Command) -> int | None:
    """What a command guesses at: the version of a redemption, 0 for a member's receiver, None for nothing."""
    match command:
        case UseRedemption(redemption=version, code=str()) | CancelRedemption(redemption=version, code=str()):
            return version
        case SendTransfer(by_member=True):
            return 0
        case _:
            return None


def too_many(wrong_at: Sequence[datetime], now: datetime, *, guesses_max: int, what: str) -> Refused | None:
    """The refusal of one more guess; `wrong_at` are the instants of wrong ones, oldest first."""
    recent = [moment for moment in wrong_at if moment > now - WINDOW]
    if len(recent) < guesses_max:
        return None
    wait_s = ceil((recent[-guesses_max] + WINDOW - now).total_seconds())
    return Refused(Reason.RATE_LIMITED, f"{what} {guesses_max} times within an hour", retry_after_s=wait_s)
