"""An endless answer of another node on its way to whoever asked here."""

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp import web

_ASKED_EACH_S: Final = 1.0
_EVENT_END: Final = b"\n\n"


async def hand_on(
    source: aiohttp.StreamReader,
    target: web.StreamResponse,
    goes_on: Callable[[], bool],
    last_words: bytes,
    *,
    has_left: Callable[[], bool],
) -> None:
    """Piece by piece, until the source ends, whoever asked has left, or an event's end after which it does not go on.

    A source may be silent for long, so it is looked each second whether there is still somebody to write to.
    """
    is_between = True
    while not is_between or goes_on():
        pause = asyncio.timeout(_ASKED_EACH_S)
        try:
            async with pause:
                piece = await source.readany()
        except TimeoutError:
            if not pause.expired():  # the home node is silent
                raise
            if has_left():
                return
            continue
        if not piece:
            return
        await target.write(piece)
        is_between = piece.endswith(_EVENT_END)
    await target.write(last_words)
