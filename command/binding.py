"""What a key that is bound to a store may not touch: holds and redemptions of others do not exist for it."""

from collections.abc import Callable

from command.envelope import Envelope
from command.load import NamedEntry
from rules.command import CancelRedemption, CaptureHold, RecordPurchase, VoidHold
from rules.outcome import Reason, Refused


def not_at_store(envelope: Envelope, entry: Callable[[int], NamedEntry | None]) -> Refused | None:
    """The refusal of a command that names what was made elsewhere; `entry` tells of what the member's versions made."""
    if envelope.store is None:
        return None
    match envelope.command:
        case CaptureHold(hold=version) | VoidHold(hold=version):
            refusal, versions = Refused(Reason.HOLD_NOT_FOUND, "no such hold"), (version,)
        case RecordPurchase(capture_holds=versions):
            refusal = Refused(Reason.HOLD_NOT_FOUND, "this store placed no such hold", "/capture_holds")
        case CancelRedemption(redemption=version, code=None):
            refusal, versions = Refused(Reason.NOT_FOUND, "no such redemption"), (version,)
        case _:
            return None
    made = [entry(version) for version in versions]
    return None if all(one is not None and one.store == envelope.store for one in made) else refusal
