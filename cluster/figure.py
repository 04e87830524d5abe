"""One figure of what a node or projector tells at /metrics."""

import aiohttp


async def read_figure(url: str, metric: str, *, timeout_s: float) -> float | None:
    """The first value of a metric, whatever its labels; None when it is not told in time, or not at all."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/metrics") as answer:
            text = await answer.text()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
    told = (line for line in text.splitlines() if line.startswith((f"{metric} ", f"{metric}{{")))
    return next((float(line.rpartition(" ")[2]) for line in told), None)
