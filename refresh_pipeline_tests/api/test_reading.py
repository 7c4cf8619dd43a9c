"""The reader of the warehouse: how long it holds the file, beside a writer in another process."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from refresh_pipeline.api import feed, reading
from refresh_pipeline.api.problems import Problem
from refresh_pipeline.api.reading import OPENING, Reader, TooLong
from refresh_pipeline.api.service import Service
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline.warehouse.writers_first import is_wanted
from refresh_pipeline_tests.api.served import BTC, ETH, NOW, Shop, served, uvicorn_of, wait_for

V1 = "/api/v1"
ENDLESS = "select sum(a.range * b.range) from range(10000000) a, range(10000000) b"
# Corrects and adds candles as fast as the file lets it, and prints each commit.
WRITER = """
import sys
from pathlib import Path
from refresh_pipeline_tests.api.served import BTC, ETH, NOW, Shop
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.settings import load_settings
root = Path(sys.argv[1])
with inside(root):
    settings = load_settings(data_dir=str(root / "data"), markets_dir=str(root / "markets"))
    shop = Shop(root, settings, load_markets(settings))
for seed in range(2, 4):
    shop.refresh({BTC: candles(1200, seed=seed), ETH: candles(300, seed=seed)})
    print(seed, flush=True)
"""


@pytest.fixture
def reader(shop: Shop) -> Iterator[Reader]:
    reader = Reader(shop.settings.database, longest=0.1)
    yield reader
    reader.close()


def endless(connection: duckdb.DuckDBPyConnection) -> Any:
    return connection.execute(ENDLESS).fetchall()


def count(connection: duckdb.DuckDBPyConnection) -> int:
    [(rows,)] = connection.execute("select count(*) from fair.raw_candles").fetchall()
    return rows


def test_a_question_that_takes_too_long_is_interrupted_and_the_others_are_answered(reader: Reader) -> None:
    async def asked() -> list[Any]:
        questions = [reader.ask(count), reader.ask(endless), reader.ask(count), reader.ask(count)]
        return await asyncio.gather(*questions, return_exceptions=True)

    first, fault, *others = asyncio.run(asked())
    assert (first, *others) == (1500, 1500, 1500)
    assert isinstance(fault, TooLong)
    assert (fault.problem, fault.status_code, fault.headers) == (Problem.busy, 503, {"Retry-After": "1"})


def test_a_question_is_answered_however_long_the_warehouse_took_to_open(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lake is attached at the first question, which takes seconds on a busy machine: nobody stood before it."""
    monkeypatch.setattr(reading, "LONGEST_QUEUE", 0.1)

    async def asked() -> int:
        OPENING.acquire()
        question = asyncio.ensure_future(reader.ask(count))
        await asyncio.sleep(0.3)
        OPENING.release()
        return await question

    assert asyncio.run(asked()) == 1500


class Impatient(Reader):
    """Takes 20,000 cells for too many."""

    async def ask(self, question: Callable[[duckdb.DuckDBPyConnection], Any], tries: int = 3) -> Any:
        def narrow(connection: duckdb.DuckDBPyConnection) -> Any:
            answer = question(connection)
            if isinstance(answer, dict) and len(answer) * len(answer["open_time"]) > 20_000:
                raise duckdb.InterruptException("too many")
            return answer

        return await super().ask(narrow, tries)


def test_a_writer_that_waits_goes_before_the_next_question(shop: Shop) -> None:
    file = Path(shop.settings.database)
    reader = Reader(file, longest=60)

    def write() -> None:
        with connect(str(file)) as connection:
            connection.execute("create table fair.written as select 1")

    def until_a_writer_waits(_: duckdb.DuckDBPyConnection) -> None:
        pool.submit(write)
        wait_for(lambda: is_wanted(file), 60)

    def is_written(connection: duckdb.DuckDBPyConnection) -> bool:
        return bool(connection.execute("from duckdb_tables() where table_name = 'written'").fetchall())

    async def asked() -> list[Any]:
        return list(await asyncio.gather(reader.ask(until_a_writer_waits), reader.ask(is_written)))

    with closing(reader), ThreadPoolExecutor() as pool:
        assert asyncio.run(asked()) == [None, True]
    assert not is_wanted(file)


@pytest.mark.parametrize("query", ["layer=enhanced&limit=700", "layer=indicators&since=2026-01-01&limit=300"])
def test_rows_that_take_too_long_at_once_are_read_in_pieces(shop: Shop, client: httpx.Client, query: str) -> None:
    service = Service.of(shop.settings, shop.markets, lambda: NOW)
    service.reader = Impatient(shop.settings.database)
    path = f"{V1}/data/BTC/USD/m5?market=fair&{query}"
    with (
        uvicorn_of(service, shop.settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as other,
    ):
        wait_for(lambda: bool(service.feed.epoch))
        assert other.get(path).json() == client.get(path).json()


def test_many_tails_are_read_in_several_openings(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "ROWS_AN_OPENING", 1)
    service = Service.of(shop.settings, shop.markets, lambda: NOW)
    with uvicorn_of(service, shop.settings):
        wait_for(lambda: all(service.feed.tails.get("fair", series) is not None for series in (BTC, ETH)))
        tails = [service.feed.tails.get("fair", series) for series in (BTC, ETH)]
        assert [len(tail.open_times) for tail in tails if tail is not None] == [1000, 300]


def test_thirty_two_clients_on_cold_series_beside_a_writer(tmp_path: Path) -> None:
    shop = Shop.stocked(tmp_path / "shop", REFRESH_API_RATE="100000")
    command = [sys.executable, "-c", WRITER, str(shop.root)]
    with served(shop) as client, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:

        def ask(number: int) -> Counter[int]:
            answers: Counter[int] = Counter()
            for _ in range(2):
                names = ("BTC/USD", "ETH/USD")[number % 2], ("enhanced", "indicators", "joined")[number % 3]
                query = {"market": "fair", "layer": names[1], "limit": 5 + answers.total() * 32 + number}
                answer = client.get(f"{V1}/data/{names[0]}/m5", params=query, timeout=60)
                answers[answer.status_code] += 1
                if answer.status_code == 200:
                    body = answer.json()
                    assert body["records"] == len(body["data"]) == min(query["limit"], body["records"])
                    assert all(row["open_time"] for row in body["data"])
                else:
                    assert answer.headers["Retry-After"]
            return answers

        with ThreadPoolExecutor(32) as clients:
            counted = sum(clients.map(ask, range(32)), Counter())
        written, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        assert written.split() == ["2", "3"]
    assert counted[200]
    assert set(counted) <= {200, 503}
