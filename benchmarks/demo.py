"""The Complete Journey as the demo tells it: which region each store is in, where shoppers live, what day it is.

All of it follows from the data and one date, which the demo writes down once per data folder: a second demo there
posts the same commands with the same keys, and nothing happens twice.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.board import Board
from benchmarks.complete_journey import Journey, data_folder, load, spread, stores_toml, whole_days
from benchmarks.deployment import Deployment, DeploymentError
from benchmarks.history import Event, read_json_lines
from benchmarks.replay import Replay, ReplayPlan
from benchmarks.screen import run_shown

DEFAULT_BASKETS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Tour:
    """A journey with its places and its date."""

    journey: Journey
    stores: Mapping[str, str]
    shift: timedelta

    def plan(self) -> ReplayPlan:
        """How to replay it. Enrolments keep their keys on every day, baskets are new ones when the date is another."""
        last_day = (self.journey.newest + self.shift).date()
        return ReplayPlan(
            stores=self.stores,
            homes=self.journey.homes(self.stores),
            key_prefix=f"journey-{last_day}",
            enrolment_prefix="journey",
        )

    def events(self, newest_count: int | None) -> Iterable[Event]:
        """The newest so many baskets, or all."""
        return self.journey.events(newest_count=newest_count, shift=self.shift)


def plan_tour(journey: Journey, regions: Sequence[str], *, pinned: Mapping[str, str], last_day: date | None) -> Tour:
    """Spread the stores and shift the dates so that the history ends on `last_day`, or just before now."""
    shift = whole_days(journey.newest, until=datetime.now(UTC))
    if last_day is not None:
        shift = timedelta(days=(last_day - journey.newest.date()).days)
    return Tour(journey, spread(journey.volumes(), regions, pinned), shift)


def last_day_of(tour: Tour) -> date:
    """The day of the last basket."""
    return (tour.journey.newest + tour.shift).date()


def program_stores(program: str) -> dict[str, str]:
    """Store -> region of a program file."""
    return {store["code"]: store["region"] for store in tomllib.loads(program).get("stores", [])}


def program_with_stores(program: str, stores: Mapping[str, str]) -> str:
    """The program file with the history's stores added."""
    return program.rstrip() + "\n" + stores_toml(stores, program_stores(program))


def told(counted: Mapping[str, int]) -> str:
    """One sentence on what became of the data's lines."""
    return (
        f"Of {counted['lines']:,} lines {counted['weighed']:,} were fuel by the thousandth of a gallon, "
        f"{counted['returns']:,} went back as returns, {counted['voids']:,} were voids and left out; "
        f"{counted['skipped']:,} baskets had nothing left."
    )


def curl_lines(status: Mapping[str, Any], member_id: str, now: datetime) -> list[str]:
    """A key, and three commands with it to try on the running system: another purchase after each demo."""
    region = next(iter(status["regions"].values()))
    query, command = (status["door"] or region[side] for side in ("query", "command"))
    key, json = '-H "Authorization: Bearer $KEY"', "-H 'Content-Type: application/json'"
    receipt = f"try-{now:%y%m%d%H%M%S}"
    purchase = (
        f'{{"member": {{"member_id": "{member_id}"}}, "store": "330", "till": "1", "receipt": "{receipt}", '
        f'"occurred_at": "{now:%Y-%m-%dT%H:%M:%SZ}", "currency": "EUR", '
        f'"lines": [{{"sku": "coffee", "quantity": 1, "amount": 1299}}]}}'
    )
    return [
        f"KEY={status['keys']['service']}",
        f"curl {key} {query}/v1/members/{member_id}/account",
        f"curl {key} -H 'Idempotency-Key: {receipt}' {json} -d '{purchase}' {command}/v1/purchases",
        f"curl {key} '{query}/v1/members/{member_id}/activity?page_size=3'",
    ]


async def replay_tour(deployment: Deployment, tour: Tour, newest_count: int | None, console: Console) -> Board:
    """Replay under the live picture; the board with what came of it."""
    board = Board(deployment.regions, tour.journey.purchase_count(newest_count))
    title = f"The Complete Journey, ending {last_day_of(tour)}"
    replay = Replay(deployment, tour.plan(), board)
    await run_shown(replay, tour.events(newest_count), board, console, title=title)
    console.print(told(tour.journey.counted), highlight=False)
    return board


async def replay_known_stores(
    deployment: Deployment, newest_count: int | None, last_day: date | None, console: Console
) -> Board:
    """Replay into a system whose program has the stores already; DeploymentError when it has not."""
    with console.status("reading the shopping history …"):
        journey = load(data_folder())
        known = await deployment.stores()
        tour = plan_tour(journey, list(deployment.regions), pinned=known, last_day=last_day)
    missing = len(tour.stores.keys() - known.keys())
    if missing:
        raise DeploymentError(
            f"the program in force knows {len(tour.stores) - missing} of the history's {len(tour.stores)} stores: "
            "write one that does with `loyalty replay --write-program FILE`, apply it with `loyalty program apply FILE`"
        )
    return await replay_tour(deployment, tour, newest_count, console)


async def replay_files(deployment: Deployment, paths: Sequence[Path], console: Console) -> Board:
    """Replay JSON Lines files; each purchase goes to the region of its store."""
    board = Board(deployment.regions, None)
    plan = ReplayPlan(stores=await deployment.stores(), homes={})
    title = ", ".join(path.name for path in paths)
    await run_shown(Replay(deployment, plan, board), read_json_lines(paths), board, console, title=title)
    return board
