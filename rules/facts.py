"""What a command refers to beyond the member's own account: looked up by the caller, in the same transaction."""

from datetime import date, datetime
from typing import Final

from rules.detail import ReferralDocument
from rules.outcome import Purchase
from rules.value import value


@value
class Facts:
    """What `decide` may need to know. Leaving one out means: there is no such thing.

    `purchase`: the purchase a return names, and `referral`: the `referrer` and `points` its entry owes them, if it owes
    any. `hold_existed`, `redemption_existed`, `transfer_existed`: the entry the command names did place a hold (make a
    redemption, send a transfer), whatever became of it. `holds_existed`: which of `capture_holds` did so. `birth_date`:
    of a buyer. `stock_left`: how many of the reward this shard may still give; asked only for rewards with a stock.
    `redemption_code`: of the redemption the command names; `wrong_guesses`: when it (or a member's receiver) was
    guessed wrong lately, oldest first. `identifiers`: (kind, value) of all the member has now, and `taken`: the kinds
    of those to be added that another member has; asked only when identifiers change. `incarnation`: of the shard, for a
    new member's first entry. `enrolled_at`: when the membership of who sends points began; asked only where the program
    wants to know. `came_back`: one who left lately was found by what this member is to be found by.
    """

    purchase: Purchase | None = None
    referral: ReferralDocument | None = None
    hold_existed: bool = False
    redemption_existed: bool = False
    transfer_existed: bool = False
    holds_existed: frozenset[int] = frozenset()
    birth_date: date | None = None
    stock_left: int | None = None
    redemption_code: str = ""
    wrong_guesses: tuple[datetime, ...] = ()
    identifiers: frozenset[tuple[str, str]] = frozenset()
    taken: frozenset[str] = frozenset()
    incarnation: int = 0
    enrolled_at: datetime | None = None
    came_back: bool = False


NO_FACTS: Final = Facts()
