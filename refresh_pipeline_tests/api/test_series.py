"""What the API says of series, files and columns, held against the warehouse; over a real server."""

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refresh_pipeline.api.frames import Window
from refresh_pipeline.api.reading import OPENING
from refresh_pipeline.api.series import rows_of_series
from refresh_pipeline.api.series_status import freshness
from refresh_pipeline.api.tails import Tails
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.check_results import CheckResult
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline.warehouse.queries import SeriesReport
from refresh_pipeline_tests.api.served import BARS, BTC, NOW, Shop, served, wait_for
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, change, flat, query

V1 = "/api/v1"


def test_instruments_and_markets(client: httpx.Client) -> None:
    body = client.get(f"{V1}/instruments").json()
    assert body["instruments"] == ["BTC/USD", "ETH/USD", "SOL/USD", "ADA/USD"]
    [eth] = [row for row in body["details"] if row["instrument"] == "ETH/USD"]
    assert (eth["market"], eth["symbol"], eth["timeframes"]) == ("fair", "XETH", ["m5", "H1"])
    assert [market["name"] for market in client.get(f"{V1}/markets").json()["markets"]] == ["fair", "mall"]
    assert client.get(f"{V1}/markets/fair").json()["is_open"] is True
    assert client.get(f"{V1}/markets/fare").json()["nearest"] == "fair"


def test_timeframes_and_their_other_names(client: httpx.Client) -> None:
    body = client.get(f"{V1}/timeframes").json()
    assert body["timeframes"] == ["m5", "H1", "D1"]
    assert (body["aliases"]["1h"], body["aliases"]["1mo"]) == ("H1", "MN1")
    assert "M1" not in body["aliases"]


def test_columns_are_those_of_the_answers(client: httpx.Client) -> None:
    for layer in ("candles", "enhanced", "indicators", "joined"):
        listed = client.get(f"{V1}/columns?layer={layer}").json()["columns"]
        answered = client.get(f"{V1}/data/BTC/USD/m5?limit=1&layer={layer}").json()["columns"]
        assert [column["name"] for column in listed] == answered
    by_name = {column["name"]: column for column in client.get(f"{V1}/columns").json()["columns"]}
    assert by_name["fractal_up_2"]["known_at"] == "2 bars later"
    assert (by_name["close"]["unit"], by_name["ao_color"]["type"]) == ("price", "varchar")


def test_series_stand_as_the_status_says(client: httpx.Client) -> None:
    rows = client.get(f"{V1}/series?market=fair").json()["series"]
    [btc] = [row for row in rows if (row["instrument"], row["timeframe"]) == ("BTC/USD", "m5")]
    assert (btc["candle_count"], btc["bars_behind"], btc["freshness"]) == (BARS, 0, "fresh")
    assert btc["version"] == client.get(f"{V1}/data/BTC/USD/m5?layer=candles&limit=1").json()["version"]
    [sol] = [row for row in rows if (row["instrument"], row["timeframe"]) == ("SOL/USD", "H1")]
    assert (sol["freshness"], sol["version"]) == ("never", None)
    assert len(client.get(f"{V1}/series?instrument=btc-usd&timeframe=1h").json()["series"]) == 2


def test_the_matrix_says_of_each_series_what_its_row_says(client: httpx.Client) -> None:
    answer = client.get(f"{V1}/matrix").json()
    digits = {
        (market["market"], name, timeframe): answer["states"][int(market["cells"][at * len(market["instruments"]) + n])]
        for market in answer["markets"]
        for at, timeframe in enumerate(market["timeframes"])
        for n, name in enumerate(market["instruments"])
    }
    rows = client.get(f"{V1}/series").json()["series"]
    assert digits == {(row["market"], row["instrument"], row["timeframe"]): row["freshness"] for row in rows}
    assert set(digits.values()) >= {"fresh", "never"}
    assert [each["market"] for each in client.get(f"{V1}/matrix?market=mall").json()["markets"]] == ["mall"]


@pytest.mark.parametrize(
    ("behind", "is_stale", "outcome", "is_open", "word"),
    [
        (0, False, "unchanged", True, "fresh"),
        (0, False, "unchanged", False, "closed"),
        (1, False, "updated", True, "late"),
        (9, True, "updated", True, "stale"),
        (1, False, "failed", True, "failed"),
    ],
)
def test_one_word_on_a_series(behind: int, is_stale: bool, outcome: str, is_open: bool, word: str) -> None:
    now = np.datetime64("2026-01-01", "us")
    report = SeriesReport(BTC, 1, now, now, outcome, None, now)
    assert freshness(report, behind, is_stale, is_open) == word


def test_the_newest_candles_of_many(client: httpx.Client, shop: Shop) -> None:
    body = client.get(f"{V1}/latest?columns=close").json()
    closes = {row["instrument"]: row["close"] for row in body["data"]}
    [(wanted,)] = query(
        shop.warehouse, "select last(close order by open_time) from fair.raw_candles where instrument = 'BTC/USD'"
    )
    assert closes["BTC/USD"] == wanted
    assert client.get(f"{V1}/latest?instruments=ETHUSD&timeframe=5m").json()["records"] == 1
    assert client.get(f"{V1}/latest?columns=ao").json()["type"] == "/problems/unknown-column"


LATE = CheckResult(
    asset="raw_candles",
    check="every_series_is_fresh",
    description="Every series has its newest candle.",
    passed=False,
    severity="error",
    detail="1 of 8 series failed",
    examined=8,
    faults=1,
    run_id="a run",
    checked_at=datetime(2026, 1, 1),  # noqa: DTZ001 (as the warehouse keeps it)
)


def test_gaps_revisions_and_lineage(tmp_path: Path) -> None:
    shop = Shop.opened(tmp_path / "shop")
    shop.refresh({BTC: flat(1.5, 0, 1, 2, 5, 6)}, NOW - timedelta(hours=1))
    shop.refresh({BTC: flat(2.5, 6)})
    with served(shop) as client:
        [gap] = client.get(f"{V1}/gaps?instrument=BTC/USD&timeframe=m5&market=fair").json()["series"]
        assert 2 in [each["candles"] for each in gap["gaps"]]
        [revision] = client.get(f"{V1}/revisions?market=fair").json()["revisions"]
        assert (revision["was"]["close"], revision["is"]["close"]) == (1.5, 2.5)
        assert client.get(f"{V1}/revisions?since=2030-01-01").json()["records"] == 0
        shop.refresh({BTC: flat(-1.0, 7)})
        [rejected] = client.get(f"{V1}/rejected").json()["rejected"]
        assert client.get(f"{V1}/checks").json() == {"records": 0, "checks": []}
        with OPENING:
            shop.warehouse.record_checks(shop.market, [LATE])
        [late] = client.get(f"{V1}/checks?market=fair").json()["checks"]
        assert (late["check"], late["passed"], late["at"]) == ("every_series_is_fresh", False, "2026-01-01T00:00:00Z")
        assert client.get(f"{V1}/checks?market=mall").json()["records"] == 0
        assert rejected["reason"] == "a price is zero or negative"
        with OPENING:
            change(shop.warehouse, "alter table fair.indicators drop column sma_10")
        [row] = client.get(f"{V1}/data/BTC/USD/m5?layer=indicators&limit=1").json()["data"]
        assert row["sma_10"] is None
        lineage = client.get(f"{V1}/lineage/BTC-USD/m5").json()
        assert (lineage["source"], len(lineage["exported"]) > 0) == ("demo", True)


def test_changes_come_when_they_are_made(tmp_path: Path) -> None:
    shop = Shop.opened(tmp_path / "shop")
    shop.refresh({BTC: candles(50)})
    with served(shop) as client:
        first = client.get(f"{V1}/changes").json()
        assert {row["asset"] for row in first["changes"]} >= {"raw_candles", "enhanced_candles", "indicators"}
        after = first["version"]
        assert client.get(f"{V1}/changes?after={after}").json()["changes"] == []
        tag = client.get(f"{V1}/data/BTC/USD/m5").headers["etag"]
        shop.refresh({BTC: flat(3.5, 60)})
        later = client.get(f"{V1}/changes?after={after}&wait=20").json()
        assert later["changes"][0]["since"] == "2024-01-01T05:00:00Z"
        assert not later["reset"]
        wait_for(lambda: client.get(f"{V1}/changes?after={after}").json()["version"] > after)
        wait_for(lambda: client.get(f"{V1}/data/BTC/USD/m5").json()["data"][-1]["close"] == 3.5)
        assert client.get(f"{V1}/data/BTC/USD/m5").headers["etag"] != tag
        assert client.get(f"{V1}/changes?after=5").json()["reset"]


def test_a_tag_changes_exactly_when_the_answer_does(tmp_path: Path) -> None:
    shop = Shop.opened(tmp_path / "shop")
    shop.refresh({BTC: flat(2.0, *range(20))})
    seen: list[tuple[str, bytes]] = []
    with served(shop) as client:
        for number, price in ((19, 2.0), (19, 3.0), (3, 3.0), (3, 3.0)):
            shop.refresh({BTC: flat(price, number)})
            newest = client.get(f"{V1}/changes").json()["version"]
            wait_for(lambda v=newest: client.get(f"{V1}/latest").json()["version"] >= v)
            for query in ("limit=5", "limit=5&layer=candles", "limit=5&format=columns"):
                answer = client.get(f"{V1}/data/BTC/USD/m5?{query}")
                seen.append((answer.headers["etag"], answer.content))
    for tag, content in seen:
        assert all((tag == other) == (content == body) for other, body in seen)
    assert len({tag for tag, _ in seen}) == 9


def test_files_are_those_of_the_manifest_alone(client: httpx.Client, shop: Shop) -> None:
    listed = client.get(f"{V1}/exports").json()["exports"]
    one = next(row for row in listed if row["format"] == "csv" and row["instrument"] == "BTC/USD")
    answer = client.get(f"{V1}/files/{one['path']}")
    assert hashlib.sha256(answer.content).hexdigest() == one["sha256"]
    assert answer.headers["etag"] == f'"{one["sha256"]}"'
    part = client.get(f"{V1}/files/{one['path']}", headers={"range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, answer.content[5:10])
    assert client.get(f"{V1}/files/{one['path']}", headers={"range": "bytes=99999999-"}).status_code == 416
    # A part goes on with the same file; another file comes as a whole.
    for tag, status in ((answer.headers["etag"], 206), ('"another"', 200)):
        rest = client.get(f"{V1}/files/{one['path']}", headers={"range": "bytes=10-", "if-range": tag})
        assert (rest.status_code, rest.content) == (status, answer.content[10 if status == 206 else 0 :])
    assert client.get(f"{V1}/files/{one['path']}", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    for path in (
        "../refresh.duckdb",
        "..%2Frefresh.duckdb",
        "%2Fetc%2Fpasswd",
        "fair",
        "",
        "x%00y",
        "....//refresh.duckdb",
    ):
        refused = client.get(f"{V1}/files/{path}")
        assert (refused.status_code, refused.json()["status"]) == (404, 404), path
    assert shop.settings.database.exists()


def test_the_predecessors_upload_status(client: httpx.Client) -> None:
    body = client.get(f"{V1}/upload/status").json()
    assert (body["upload_enabled"], body["dropbox_configured"], body["last_upload"]) == (False, False, None)
    assert body["upload_path_current"] is None
    assert body["upload_off"].startswith("off, no destination is named")
    assert client.get(f"{V1}/uploads").json() == {"records": 0, "uploads": []}


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30)), min_size=1, max_size=5), st.integers(5, 60))
def test_a_tail_is_the_end_of_the_table(tmp_path_factory: pytest.TempPathFactory, parts: list, rows: int) -> None:
    shop = Shop.opened(tmp_path_factory.mktemp("tail") / "shop")
    tails = Tails(shop.markets, rows)
    for number, (first, count) in enumerate(parts):
        shop.warehouse.store_candles(shop.market, {BTC: candles(count, first, seed=number)}, "demo", NOW)
        since = candles(1, first).open_time[0].astype(object)
        with connect(str(shop.settings.database), read_only=True) as connection:
            bring_forward = tails.read(connection, {("fair", BTC): since})
        # The file is closed: whoever writes need not wait for it.
        bring_forward()
    tail = tails.get("fair", BTC)
    assert tail is not None
    stored = [row[0] for row in query(shop.warehouse, "select close from fair.raw_candles order by open_time")]
    newest = tail.window(Window(min(rows, len(stored))))
    assert newest is None or tail.rows(*newest, ["close"])["close"].tolist() == stored[-min(rows, len(stored)) :]
    held = tail.rows(0, rows, ["close", "source"])
    assert held["close"].tolist() == stored[-len(held["close"]) :]
    assert tail.is_whole == (len(held["close"]) == len(stored))


def test_a_large_market_is_looked_through_once() -> None:
    class Counted(list[Series]):
        times = 0

        def __iter__(self) -> Iterator[Series]:
            self.times += 1
            return super().__iter__()

    wanted = Counted(Series(f"A{number}", Timeframe.m1) for number in range(3))
    rows = [{"instrument": f"A{number}", "timeframe": "m1"} for number in range(9)]
    assert rows_of_series(rows, wanted) == rows[:3]
    assert wanted.times == 1
