"""A lake behind the API, its reader, the client and live mode: the answers are those of a file."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from refresh_pipeline.api.reading import OPENING, Reader
from refresh_pipeline.client import ClientError, connect
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.sources.streaming import ClosedCandle
from refresh_pipeline.streaming.engine import Engine
from refresh_pipeline.warehouse.connection import connect as connection_of
from refresh_pipeline.warehouse.live import LiveStore
from refresh_pipeline_tests.api.served import BARS, BTC, ETH, NOW, Shop, served, wait_for
from refresh_pipeline_tests.lake_server import address_in, close_lakes, lakes, of_a_lake, server
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, change, query

pytestmark = of_a_lake
V1 = "/api/v1"
# Answers that are made from the warehouse.
PATHS = (
    *(
        f"{V1}/data/BTC/USD/m5?market=fair&layer={layer}&limit=40"
        for layer in ("candles", "enhanced", "indicators", "joined")
    ),
    f"{V1}/data/ETH/USD/m5?market=fair&since=2024-01-01T05:00&limit=100",
    *(f"{V1}/{name}?market=fair" for name in ("series", "latest", "gaps", "revisions", "rejected")),
    "/binance/fair/api/v3/klines?symbol=BTCUSD&interval=5m&limit=30",
)
# Numbers of changes and moments of storing.
OF_ITS_OWN = {"version", "epoch", "changed_at", "fetched_at", "last_updated"}
ENDLESS = "select sum(a.range * b.range) from range(10000000) a, range(10000000) b"


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Shop]]:
    """The same candles in a file and in a lake, with everything computed."""
    root = tmp_path_factory.mktemp("shops")
    with lakes():
        address = address_in(root)
        yield Shop.stocked(root / "file"), Shop.stocked(root / "lake", REFRESH_WAREHOUSE=address)
        close_lakes()


def answers(place: Any) -> dict[str, pd.DataFrame]:
    """What a client is told, without the numbers of changes and the moments of storing."""
    client = connect(place)
    series = client.series()
    told = {
        "candles": client.candles("BTC/USD", "m5", limit=500),
        "window": client.candles("ETH/USD", "m5", since="2024-01-01T05:00", until="2024-01-01T07:00"),
        "enhanced": client.enhanced("BTC/USD", "m5", limit=50),
        "indicators": client.indicators("BTC/USD", "m5", limit=50),
        "series": series.drop(columns=[name for name in series.columns if name == "version"]),
        "gaps": client.gaps(),
    }
    return {name: frame.drop(columns=["fetched_at"], errors="ignore") for name, frame in told.items()}


def test_a_client_is_told_of_a_lake_what_it_is_told_of_a_file(shops: tuple[Shop, Shop]) -> None:
    file, lake = shops
    expected, found = answers(file.settings.data), answers(lake.settings.warehouse)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(found[name], frame, rtol=1e-9)
    assert len(expected["candles"]) == 500
    assert len(expected["series"]) == 2
    with pytest.raises(ClientError, match="found a lake's address that is not shown"):
        connect("ducklake:sqlite:x")


def test_the_api_serves_of_a_lake_what_it_serves_of_a_file_while_a_writer_works(shops: tuple[Shop, Shop]) -> None:
    """A writer holds its lock, and another reader the turn that readers of a file wait for: nobody waits for either."""
    told = []
    for shop in shops:
        with served(shop) as client, ExitStack() as held:
            if shop is shops[1]:
                held.enter_context(OPENING)
                held.enter_context(connection_of(shop.settings.warehouse, market="fair"))
            found = {path: client.get(path) for path in PATHS}
            assert {path: answer.text for path, answer in found.items() if answer.status_code != 200} == {}
            told.append({path: shared(answer.json()) for path, answer in found.items()})
    for path, expected in told[0].items():
        assert told[1][path] == expected, path
    assert len(told[0][PATHS[0]]["data"]) == 40


def shared(answer: Any) -> Any:
    """An answer without what each warehouse has of its own; numbers to nine digits."""
    if isinstance(answer, dict):
        return {name: shared(value) for name, value in answer.items() if name not in OF_ITS_OWN}
    if isinstance(answer, list):
        return [shared(value) for value in answer]
    return float(f"{answer:.9g}") if isinstance(answer, float) else answer


def test_a_question_that_fails_leaves_the_others_of_its_opening_answered(shops: tuple[Shop, Shop]) -> None:
    """Of a lake all questions of an opening share a transaction, which a failed statement ends."""

    def count(connection: duckdb.DuckDBPyConnection) -> int:
        return connection.execute("select count(*) from fair.raw_candles").fetchall()[0][0]

    def failing(sql: str) -> Any:
        return lambda connection: connection.execute(sql).fetchall()

    reader = Reader(shops[1].settings.warehouse, longest=0.2)
    questions = [failing("select error('no')"), count, failing("from fair.no_such"), count, failing(ENDLESS), count]

    async def asked() -> list[Any]:
        return await asyncio.gather(*map(reader.ask, questions), return_exceptions=True)

    try:
        told = asyncio.run(asked())
    finally:
        reader.close()
    assert [each for each in told if isinstance(each, int)] == [BARS + 300] * 3
    assert [type(each).__name__ for each in told[::2]] == ["InvalidInputException", "ProblemError", "TooLong"]


def test_live_waves_are_written_as_into_a_file(shops: tuple[Shop, Shop]) -> None:
    """Two waves, then candles that others have stored meanwhile: those win."""
    rows = [wave_rows(shop) for shop in shops]
    assert rows[0].keys() == rows[1].keys()
    for table, expected in rows[0].items():
        assert len(expected) == len(rows[1][table]) > 0, table
        for ours, theirs in zip(expected, rows[1][table], strict=True):
            numbers = [number for number, value in enumerate(ours) if isinstance(value, float)]
            assert [ours[number] for number in numbers] == pytest.approx(
                [theirs[number] for number in numbers], rel=1e-9, nan_ok=True
            ), table
            texts = [[value for number, value in enumerate(row) if number not in numbers] for row in (ours, theirs)]
            assert texts[0] == texts[1], table


def wave_rows(shop: Shop) -> dict[str, list[tuple]]:
    """The newest rows of each table that a wave writes, after two waves and one that is refused."""
    store, series = LiveStore(shop.warehouse, shop.market), [BTC, ETH]
    engine = Engine(shop.market, series, store)
    newest = engine.load(series)
    assert set(newest) == set(series)
    for number in (1, 2):
        assert store.write(engine.compute(closed(newest, number)), run_id="live", now=NOW) == set()
    waves = engine.compute(closed(newest, 3))
    change(shop.warehouse, "update fair.series set candle_count = candle_count + 1 where instrument = 'ETH/USD'")
    assert store.write(waves, run_id="live", now=NOW) == {ETH}
    change(shop.warehouse, "update fair.series set candle_count = candle_count - 1 where instrument = 'ETH/USD'")
    newest_rows = "order by open_time desc, instrument limit 6"
    return {
        "raw_candles": query(shop.warehouse, f"select * exclude (fetched_at) from fair.raw_candles {newest_rows}"),
        "enhanced_candles": query(shop.warehouse, f"select * from fair.enhanced_candles {newest_rows}"),
        "indicators": query(shop.warehouse, f"select * from fair.indicators {newest_rows}"),
        "series": query(shop.warehouse, "select instrument, candle_count from fair.series order by all"),
        "recompute_queue": query(
            shop.warehouse, "select instrument, asset, since from fair.recompute_queue order by all"
        ),
        "outcomes": query(
            shop.warehouse,
            "select instrument, outcome, rows_added, run_id from fair.outcomes where asset = 'raw_candles' order by 1",
        ),
    }


def closed(newest: dict[Any, np.datetime64], number: int) -> list[ClosedCandle]:
    """The candle of each series so many bars after its newest."""
    values = tuple(float(candles(5).columns[name][number]) for name in CANDLE_COLUMNS)
    return [ClosedCandle(each, time + np.timedelta64(5 * number, "m"), values, "demo") for each, time in newest.items()]


def test_an_outage_of_the_catalogue_is_told_and_ends(shops: tuple[Shop, Shop]) -> None:
    """Neither a fault of the program, nor an answer that never comes; what needs no warehouse is answered."""
    with served(shops[1]) as client:
        assert client.get(PATHS[0]).status_code == 200
        server().stop()
        try:
            told = {path: client.get(path) for path in ("/health", *PATHS[-4:])}
            metrics = client.get("/metrics")
        finally:
            server().start()
        assert {path: answer.status_code for path, answer in told.items() if answer.status_code != 503} == {}
        assert told["/health"].json()["checks"]["warehouse"]["ok"] is False
        assert (metrics.status_code, 'refresh_ready{part="warehouse"} 0' in metrics.text) == (200, True)
        wait_for(lambda: client.get(PATHS[-1]).status_code == 200)
        assert 'refresh_ready{part="warehouse"} 1' in client.get("/metrics").text
