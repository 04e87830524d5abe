"""Decides a loaded batch, one command after another with the state threaded: no I/O, no clock.

Two commands of one member in one batch just work, and whatever one command contains, another
member's outcome never depends on it: a command that breaks `decide` is answered `internal`, alone.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, Final

import orjson
import structlog

from command.answer import (
    MAY_CHANGE,
    NOTHING_TO_DO,
    accepted,
    problem_answer,
    refused,
    render_entry,
)
from command.binding import not_at_store
from command.claim import Claims
from command.envelope import Answer, Envelope, ReceiptName
from command.load import Extras, KnownReceipt, Loaded, NamedEntry, account_of, purchase_of
from command.record import (
    Writes,
    identifiers_of,
    receipt_row,
    write_identifiers,
    write_purchase,
    write_release,
    write_side,
)
from rules.command import (
    ChangeIdentifiers,
    CloseMember,
    Command,
    EnrolMember,
    RecordPurchase,
    RedeemReward,
)
from rules.decide import decide
from rules.detail import ReferralDocument
from rules.facts import NO_FACTS, Facts
from rules.guess import guessed
from rules.outcome import Accepted, Decision, Entry, NothingToDo, Purchase, Reason, Refused
from rules.program import Program
from rules.state import Account
from service.stored_answer import RenderedEntry, completed
from shard_router.directory import Identifier
from shard_router.errors import ProblemError

PERSONAL: Final = frozenset({"member_enrolled", "identifiers_changed"})
"""Entries whose answers show personal data."""


class Batch:
    """One batch between load and record. `decide` it command by command, then hand `writes` to the store."""

    def __init__(self, program: Program, extras: Extras, claims: Claims) -> None:
        """`claims` tells which identifiers other shards may keep, and what is kept of those that go."""
        self.program = program
        self.writes = Writes()
        self.debt_written_off = 0
        self._claims = claims
        self._extras = extras
        self._accounts: dict[int, Account | None] = {}
        self._purchases: dict[tuple[int, int], tuple[Purchase, int]] = {}
        self._referrals: dict[tuple[int, int], ReferralDocument] = {}
        self._receipts: dict[ReceiptName, KnownReceipt] = {}

    def decide(self, loaded: Loaded) -> Answer:
        """Answer one command."""
        envelope = loaded.envelope
        if loaded.row["key_fingerprint"] is not None:
            return self._replay(loaded)
        name = loaded.receipt_name
        known = self._receipts.get(name) if name else None
        known = known or loaded.recorded
        if known is not None:
            return self._keep(envelope, self._receipt_again(loaded, known))
        try:
            decision = self._decide(loaded)
        except Exception:  # noqa: BLE001 - poison is answered alone, whatever it is
            structlog.get_logger().exception("decide_failed", request_id=envelope.request_id)
            return problem_answer(envelope, ProblemError("internal"))
        return self._take(loaded, decision)

    def _replay(self, loaded: Loaded) -> Answer:
        envelope, row = loaded.envelope, loaded.row
        if not envelope.fingerprint.matches(row["key_fingerprint"].hex):
            return problem_answer(envelope, ProblemError("idempotency_key_reused"))
        self.writes.add("replay", envelope.key)
        body = completed(row["key_answer"], loaded.answered)
        return Answer(row["key_status"], body, row["key_member_id"], row["key_version"], replayed=True)

    def _receipt_again(self, loaded: Loaded, known: KnownReceipt) -> Answer:
        """The same document under a new key: the first answer again. Anything else is a conflict."""
        envelope, name = loaded.envelope, loaded.receipt_name
        same = envelope.receipt is not None and envelope.receipt.fingerprint.matches(known.fingerprint)
        if name is not None and envelope.key is None:
            self.writes.add("receipt_again", receipt_row(name))
        if known.entry is None or known.is_lost or known.member_id != loaded.target:
            return refused(envelope, Refused(Reason.RECEIPT_CONFLICT, "this receipt is another member's"))
        if not same:
            return refused(envelope, Refused(Reason.RECEIPT_CONFLICT, "this receipt was recorded with other content"))
        return accepted(envelope.command, known.entry, replayed=True)

    def _decide(self, loaded: Loaded) -> Decision:
        envelope, target = loaded.envelope, loaded.target
        if isinstance(envelope.command, EnrolMember):
            taken = set(identifiers_of(envelope.command)) & self._extras.taken_identifiers
            for kind in (*envelope.taken, *(kind for kind, _ in taken)):
                refusal = Refused(Reason.MEMBER_EXISTS, f"there is a member with this {kind}", f"/{kind}")
                return Decision(refusal, (), None)
        if target is None:
            return Decision(Refused(Reason.MEMBER_NOT_FOUND, "no such member"), (), None)
        if envelope.holds_of not in {None, target}:
            return Decision(Refused(Reason.HOLD_NOT_FOUND, "this member has no such hold", "/capture_holds"), (), None)
        self._note_entry(loaded, target)
        refusal = not_at_store(envelope, lambda version: self._extras.entries.get((target, version)))
        if refusal:
            return Decision(refusal, (), None)
        if target not in self._accounts:
            self._accounts[target] = account_of(loaded)
        return decide(self._accounts[target], envelope.command, self.program, self._facts(loaded, target))

    def _note_entry(self, loaded: Loaded, target: int) -> None:
        """Know the entry that a command refers to, unless this batch made it."""
        row, reference = loaded.row, loaded.envelope.reference
        if reference is not None and row["referred_kind"] is not None:
            entry = NamedEntry(row["referred_kind"], row["referred_store"], row["referred_code"])
            self._extras.entries.setdefault((target, reference), entry)

    def _facts(self, loaded: Loaded, target: int) -> Facts:
        envelope, row, extras = loaded.envelope, loaded.row, self._extras
        command = envelope.command
        birth_date = date.fromisoformat(row["birth_date"]) if row["birth_date"] else None
        if isinstance(command, RecordPurchase) and not command.capture_holds:
            return Facts(birth_date=birth_date) if birth_date else NO_FACTS  # it refers to nothing else
        name = (target, envelope.reference or 0)
        if name not in self._purchases and row["purchase_version"] is not None:
            self._purchases[name] = (purchase_of(row), row["changed_version"])
        if row["referral"] is not None:
            self._referrals[name] = orjson.loads(row["referral"])
        kind, _, code = extras.entries.get(name, (None, None, None))
        captured = command.capture_holds if isinstance(command, RecordPurchase) else ()
        entries = ((version, extras.entries.get((target, version))) for version in captured)
        holds = (version for version, entry in entries if entry and entry.kind == "hold_placed")
        known = self._purchases.get(name)
        return Facts(
            purchase=known[0] if known else None,
            referral=self._referrals.get(name),
            hold_existed=kind == "hold_placed",
            redemption_existed=kind == "reward_redeemed",
            transfer_existed=kind == "transfer_sent",
            holds_existed=frozenset(holds),
            birth_date=birth_date,
            redemption_code=code or "",
            wrong_guesses=tuple(extras.wrong_guesses.get((target, guessed(command) or 0), ())),
            stock_left=extras.stock_left.get(command.reward) if isinstance(command, RedeemReward) else None,
            identifiers=frozenset(extras.identifiers.get(target, ())),
            taken=self._taken(envelope, target),
            incarnation=row["incarnation"] or 0,
            came_back=envelope.came_back or not extras.former.isdisjoint(_added(command)),
            enrolled_at=extras.enrolled_at.get(target),
        )

    def _taken(self, envelope: Envelope, target: int) -> frozenset[str]:
        """The kinds of identifiers to be added that other members have, here or on another shard."""
        command = envelope.command
        if not isinstance(command, ChangeIdentifiers):
            return frozenset()
        others = self._extras.taken_identifiers - self._extras.identifiers.get(target, set())
        return frozenset((*envelope.taken, *(kind for kind, value in command.add if (kind, value) in others)))

    def _take(self, loaded: Loaded, decision: Decision) -> Answer:
        """Turn a decision into rows to write and an answer."""
        envelope, account = loaded.envelope, decision.account
        for entry in decision.settled:
            self._write_entry(entry, envelope)
        if account is not None and decision.entries:
            self._accounts[account.member_id] = account
            self.writes.accounts[account.member_id] = account
        if isinstance(decision.outcome, Refused):
            return self._refuse(loaded, decision.outcome)
        if isinstance(decision.outcome, NothingToDo):
            return NOTHING_TO_DO
        rendered = self._write_entry(decision.outcome.entry, envelope)
        self._write_beside(loaded, decision.outcome, rendered)
        return self._keep(envelope, accepted(envelope.command, rendered))

    def _refuse(self, loaded: Loaded, refusal: Refused) -> Answer:
        """Answer a "no". What is not final, not found or only for now may change, so it is not stored under the key."""
        envelope = loaded.envelope
        answer = refused(envelope, refusal)
        if refusal.reason == envelope.not_final:
            return replace(answer, not_final=True)
        if refusal.wrong_guess and loaded.target is not None:
            self._write_guess(loaded.target, envelope.command)
        return answer if answer.status in MAY_CHANGE else self._keep(envelope, answer)

    def _write_guess(self, target: int, command: Command) -> None:
        version = guessed(command) or 0
        self._extras.wrong_guesses.setdefault((target, version), []).append(command.received_at)
        self.writes.add_guess(target, version, command.received_at)

    def _write_entry(self, entry: Entry, envelope: Envelope) -> RenderedEntry:
        rendered = render_entry(entry, self.program)
        version = self.program.version if entry.program_version is None else entry.program_version
        if version != self.program.version:
            # Decided by the version of its instant; what the account is worth today is told by the one in force.
            rendered.detail["shown_by"] = self.program.version
        if entry.kind in PERSONAL:
            # Erasing the member later finds the stored answers that show personal data by this.
            rendered.detail["key"] = envelope.key
        self.writes.add_entry(entry, rendered, version)
        name = (rendered.member_id, rendered.version)
        self._extras.entries[name] = NamedEntry(entry.kind, entry.store, entry.detail.get("code"))
        if "referral" in rendered.detail:
            self._referrals[name] = rendered.detail["referral"]
        return rendered

    def _write_beside(self, loaded: Loaded, outcome: Accepted, rendered: RenderedEntry) -> None:
        envelope = loaded.envelope
        command, member_id = envelope.command, rendered.member_id
        referred = self._extras.programs.get(loaded.row["referred_program_version"], self.program)
        self._write_receipt(loaded, rendered)
        self.debt_written_off += rendered.detail.get("written_off", 0)
        write_side(self.writes, envelope, rendered, referred)
        if isinstance(command, ChangeIdentifiers):
            profile = self._extras.profiles.setdefault(member_id, {})
            write_identifiers(self.writes, envelope, rendered, profile, self._extras.identifiers.get(member_id, ()))
            self._write_departure(command.remove, rendered, command.received_at)
        elif isinstance(command, CloseMember):
            gone = self._extras.identifiers.get(member_id, ())
            self._write_departure(gone, rendered, command.received_at)
        self._thread(envelope, rendered)
        purchase = outcome.purchase
        if purchase:
            name = (rendered.member_id, purchase.version)
            before = self._purchases.get(name)
            self._purchases[name] = (purchase, rendered.version)
            version_before = before[1] if before else None
            date = loaded.dates[0] if loaded.dates else None
            write_purchase(self.writes, purchase, rendered, business_date=date, version_before=version_before)

    def _write_departure(self, gone: Iterable[Identifier], entry: RenderedEntry, now: datetime) -> None:
        """Keep hashes of what nobody is found by any more, and free it; what other shards have, an errand does."""
        days = self.program.membership.rejoin_days
        forget_at = now + timedelta(days=days) if days else None
        claimed = {identifier for identifier in gone if self._claims.needs_claim(identifier)}
        write_release(self.writes, entry, claimed, forget_at)
        for identifier in set(gone) - claimed if forget_at else ():
            for text in self._claims.hashes(identifier)[:1]:
                self.writes.add("former", {"hash": text, "member_id": entry.member_id, "forget_at": forget_at})

    def _write_receipt(self, loaded: Loaded, entry: RenderedEntry) -> None:
        receipt, name = loaded.envelope.receipt, loaded.receipt_name
        if receipt is None or name is None:
            return
        row = receipt_row(name)
        row |= {"member_id": entry.member_id, "version": entry.version, "fingerprint": receipt.fingerprint.text}
        self.writes.add("receipt", row)
        if isinstance(loaded.envelope.command, RecordPurchase):
            self._write_unclaimed(loaded.envelope.command, row)
        self._receipts[name] = KnownReceipt(entry.member_id, entry.version, receipt.fingerprint.text, entry)

    def _write_unclaimed(self, command: RecordPurchase, row: dict[str, Any]) -> None:
        """Have the receipt claimed where those of its store are kept, unless that is here (see register)."""
        store = self.program.at(command.occurred_at).stores[command.receipt.store]
        if self._claims.is_registered_elsewhere(row["member_id"], store.region, store.code):
            self.writes.add("unclaimed_receipt", row | {"region": store.region})

    def _thread(self, envelope: Envelope, entry: RenderedEntry) -> None:
        """Keep what later commands of this batch will ask about true."""
        command, stock = envelope.command, self._extras.stock_left
        if isinstance(command, EnrolMember):
            self._extras.taken_identifiers.update(identifiers_of(command))
        elif isinstance(command, ChangeIdentifiers):
            known = self._extras.identifiers.setdefault(entry.member_id, set())
            known.update(command.add)
            known.difference_update(command.remove)
            self._extras.taken_identifiers.update(command.add)
        elif isinstance(command, RedeemReward) and command.reward in stock:
            stock[command.reward] -= command.quantity  # what a cancellation gives back counts from the next batch on

    def _keep(self, envelope: Envelope, answer: Answer) -> Answer:
        """Store the first answer under its key; the settler has none."""
        if envelope.key is not None and (envelope.stores_refusal or not answer.is_refusal):
            self.writes.add_answer(envelope, answer)
            if isinstance(envelope.command, EnrolMember):
                self.writes.slots_entered.add(envelope.slot)
        return answer


def _added(command: Command) -> Iterable[Identifier]:
    """What a member is to be found by from now on."""
    match command:
        case EnrolMember():
            return identifiers_of(command)
        case ChangeIdentifiers(add=add):
            return add
        case _:
            return ()
