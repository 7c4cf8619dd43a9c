"""Beta and correlation against another instrument, by the query that docs/data.md shows."""

import csv
import gzip
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, Floats
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.warehouse.warehouse_fixtures import NOW, market_of, opens, prepared, query

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "data.md"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "public" / "beta.csv.gz"
MARKET = market_of(timeframes="[H1]", name="demo")
ETH, BTC = (Series(name, Timeframe.H1) for name in ("ETH/USD", "BTC/USD"))


def documented() -> str:
    queries = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [each for each in queries if "regr_slope" in each]
    return found.replace("rows 19 preceding", "rows 4 preceding").replace("= 20 order", "= 5 order")


def closes(values: Floats, *, missing: int | None = None) -> Candles:
    times = opens(len(values), timeframe=Timeframe.H1)
    kept = np.arange(len(values)) != (-1 if missing is None else missing)
    return Candles(times[kept], dict.fromkeys(CANDLE_COLUMNS, values[kept]))


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return prepared(tmp_path, MARKET)


def test_the_documented_query_gives_published_betas_and_follows_a_correction(warehouse: Warehouse) -> None:
    with gzip.open(GOLDEN, "rt") as lines:
        rows = list(csv.DictReader(lines))
    one, other = (np.array([float(row[name]) for row in rows]) for name in ("amzn", "spx"))
    warehouse.store_candles(MARKET, {ETH: closes(one), BTC: closes(other)}, "test", NOW)
    # The published figures divide a change by the newer close.
    published = re.sub(r"(.)\.close / lag\(.\.close\) over in_order - 1", r"1 - lag(\1.close) over in_order / \1.close",
                       documented())  # fmt: skip
    found = [beta for _, beta, _ in query(warehouse, published)]
    np.testing.assert_allclose(found, [float(row["beta"]) for row in rows[5:]], rtol=1e-7)

    def holds(other: Floats) -> None:
        pair = np.stack([one, other])
        changes = pair[:, 1:] / pair[:, :-1] - 1
        for number, (_, beta, correlation) in enumerate(query(warehouse, documented())):
            change, reference = changes[:, number : number + 5].tolist()
            assert correlation == pytest.approx(statistics.correlation(change, reference))
            assert beta == pytest.approx(statistics.linear_regression(reference, change).slope)

    holds(other)
    corrected = other.copy()
    corrected[10] *= 1.01
    warehouse.store_candles(MARKET, {BTC: closes(corrected)}, "test", NOW)
    holds(corrected)


def test_a_bar_that_one_of_them_lacks_is_left_out_of_both(warehouse: Warehouse) -> None:
    random = np.random.default_rng(4)
    one, other = (100 + np.cumsum(random.standard_normal(12)) for _ in range(2))
    warehouse.store_candles(MARKET, {ETH: closes(one), BTC: closes(other, missing=7)}, "test", NOW)
    rows = query(warehouse, documented())
    times = opens(12, timeframe=Timeframe.H1)
    assert [np.datetime64(opened) for opened, *_ in rows] == [times[number] for number in (5, 6, 8, 9, 10, 11)]
    kept = np.delete(np.stack([one, other]), 7, axis=1)
    changes = kept[:, 1:] / kept[:, :-1] - 1
    change, reference = changes[:, -5:].tolist()
    assert rows[-1][1] == pytest.approx(statistics.linear_regression(reference, change).slope)
