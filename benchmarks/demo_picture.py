"""Draws docs/demo.svg, the demo's screen: `python -m benchmarks.demo_picture FILE KEY NODE...` on a fresh system.

That system has the program of the demo (`loyalty replay --write-program`), so that its first baskets are all new ones.
The picture is drawn when two thirds of them are recorded; then the replay ends.
"""

import asyncio
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from benchmarks.board import Board
from benchmarks.complete_journey import data_folder, load
from benchmarks.demo import last_day_of, plan_tour
from benchmarks.deployment import Deployment
from benchmarks.replay import Replay
from benchmarks.screen import picture

BASKETS: Final = 12_000
SHARE: Final = 2 / 3
WIDTH: Final = 118
_POLL_S: Final = 0.1


async def draw(deployment: Deployment, file: Path) -> None:
    """Replay until the picture can be drawn; nothing is drawn of a system that knew a basket before."""
    journey = load(data_folder())
    tour = plan_tour(journey, list(deployment.regions), pinned=await deployment.stores(), last_day=None)
    board = Board(deployment.regions, journey.purchase_count(BASKETS))
    replay = asyncio.create_task(Replay(deployment, tour.plan(), board).run(tour.events(BASKETS)))
    while board.baskets < BASKETS * SHARE and not replay.done():  # noqa: ASYNC110 - a board tells nobody
        await asyncio.sleep(_POLL_S)
    if board.replayed or replay.done():
        sys.exit("this system had these baskets already: take a fresh data folder")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(picture(board, f"The Complete Journey, ending {last_day_of(tour)}", width=WIDTH))
    console.save_svg(str(file), title="make demo")
    replay.cancel()
    with suppress(asyncio.CancelledError):
        await replay


async def _main(file: Path, key: str, nodes: list[str]) -> None:
    await draw(await Deployment.of_urls(nodes, key), file)


if __name__ == "__main__":
    if len(sys.argv) <= len(("file", "key", "node")):
        sys.exit(__doc__)
    uvloop.run(_main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
