"""A live run in a process of its own, which a test may kill at any moment."""

from pathlib import Path

from refresh_pipeline.market.model import parse_market
from refresh_pipeline.sources.registry import open_source, open_stream
from refresh_pipeline.streaming.live_run import Clock, LiveRun, Parts
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.fakes.binance_stream import FastClock


def stream_for_ever(path: Path, yaml: str, clock: FastClock) -> None:
    """Run until somebody ends the process."""
    market, limits = parse_market(yaml, "crypto.yaml"), path.parent / "limits"
    parts = Parts(
        Warehouse(path, patience=5.0),
        open_source(market, limits),
        open_stream(market, limits),
        Clock(clock.now, clock.speed),
        run_id="killed",
    )
    LiveRun(market, parts).run()
