"""Health needs no credential: whoever asks for it, and how often, costs a node little."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.health import CHECKS, REGISTRY
from tests.http_node import connection, read_answer, running_node, until_read


async def test_checks_and_figures_are_asked_once_for_many_strangers(tmp_path: Path) -> None:
    asked = 0

    async def check() -> str | None:
        nonlocal asked
        asked += 1
        await until_read()
        return None

    class Looks(Collector):
        def collect(self) -> Iterator[Metric]:
            nonlocal asked
            asked += 1
            yield GaugeMetricFamily("looks", "How often.", asked)

    async with running_node(tmp_path) as node, AsyncExitStack() as stack:
        node.app[CHECKS]["one"] = check
        node.app[REGISTRY].register(Looks())
        for path in ("/readyz", "/metrics"):
            asked = 0
            strangers = [await stack.enter_async_context(connection(node.port)) for _ in range(20)]
            for _, writer in strangers:
                writer.write(node.request(b"", method="GET", target=path))
            assert {(await read_answer(reader)).status for reader, _ in strangers} == {200}
            assert asked < len(strangers) / 2, path
