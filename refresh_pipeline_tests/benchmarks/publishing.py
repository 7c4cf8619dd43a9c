"""Publishing of one new candle in each series, with the exports of a market that says nothing of them."""

import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import duckdb

from refresh_pipeline.market.model import Market
from refresh_pipeline.pipeline import compute, export
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.cycle import COMPUTED, fill
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size
from refresh_pipeline_tests.benchmarks.venue import BEGIN, MINUTE, candles_of, market_at

NOWHERE = "http://127.0.0.1:1"
# Of which files are made first: an append costs the same behind a longer history.
STORED = 240
# The bare way writes the rows that later candles may alter, as ours does.
REPAINTED = 89
ROUNDS = 3


def measure(size: Size, folder: Path) -> Findings:
    """Seconds of processor time, beside one COPY of the same rows and an append of the same lines."""
    market = market_at(NOWHERE, size.series, STORED, keep="90d")
    warehouse, root = Warehouse(database=str(folder / "publish.duckdb")), folder / "published"
    fill(warehouse, market, min(size.stored, STORED))
    export.export(warehouse, market, root, market.series, BEGIN)
    rounds = [_round(warehouse, market, root, number) for number in range(1, min(size.rounds, ROUNDS) + 1)]
    ours, bare = zip(*rounds, strict=True)
    files = sum(1 for _ in root.rglob("*.*"))
    what = f"publish one new candle of {len(market.series)} series"
    note = "processor time; bare: one COPY of the rows that may change, and an append to each text"
    return {f"publishing, {files} files": [Comparison(what, ours, bare, note)]}


def _round(warehouse: Warehouse, market: Market, root: Path, number: int) -> tuple[float, float]:
    now = BEGIN + MINUTE * number
    arrivals = {series: candles_of(series, now, 1) for series in market.series}
    warehouse.store_candles(market, arrivals, market.source.kind, now)
    for table in COMPUTED:
        compute.compute(warehouse, market, table, market.series)
    began = time.process_time()
    attempts = export.export(warehouse, market, root, market.series, now)
    ours = time.process_time() - began
    assert {attempt.outcome.value for attempt in attempts.values()} == {"updated"}
    began = time.process_time()
    _bare(Path(warehouse.database), market, root.with_name("bare"))
    return ours, time.process_time() - began


def _bare(database: Path, market: Market, root: Path) -> None:
    root.mkdir(exist_ok=True)
    with duckdb.connect(str(database), read_only=True) as connection:
        [(newest,)] = connection.execute(f"select max(open_time) from {market.name}.enhanced_candles").fetchall()
        since = newest - MINUTE * REPAINTED
        connection.execute(
            f"copy (select * from {market.name}.enhanced_candles e left join {market.name}.indicators i "
            f"using (instrument, timeframe, open_time) where e.open_time >= timestamp '{since}' "
            f"order by instrument, open_time) to '{root / 'newest.parquet'}' (format parquet, compression zstd)"
        )
        lines = connection.execute(
            "select instrument, concat_ws(',', open_time, open, high, low, close, volume) "
            f"from {market.name}.enhanced_candles where open_time = ?",
            [newest],
        ).fetchall()
    for number, line in _numbered(lines):
        with (root / f"{number}.csv").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _numbered(lines: Sequence[tuple[str, str]]) -> Iterator[tuple[int, str]]:
    return zip(count(), (line for _, line in lines), strict=False)
