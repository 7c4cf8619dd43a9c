"""Two hundred APIs a minute: how much they take on disk, in seconds and in memory, asked faster than the clock.

Run as `python -m refresh_pipeline_tests.benchmarks.measure_snapshots [rounds]`. A round is a minute: 200 questions to a
server on loopback, each answered by 8 kB of tickers. Of the APIs half change every minute, a quarter every tenth, and
the others every hour. The default, 1,440 rounds, is a day; that night's maintenance follows. Fewer rounds give a day
by the growth of their later half in proportion.
"""

import json
import random
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from refresh_pipeline.market.apis import Collection, parse_collection
from refresh_pipeline.pipeline.api_snapshots import refresh
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.snapshots import prune
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.apis.api_server import ApiServer, api_server

APIS, TICKERS, DAY = 200, 90, 1440
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def changes_every(number: int) -> int:
    """The minutes after which an API has something new."""
    return 1 if number < APIS // 2 else 10 if number < APIS * 3 // 4 else 60


def answer(server: ApiServer, number: int, prices: list[float]) -> None:
    """New prices of all tickers, as exchanges list them."""
    listed = [
        {
            "symbol": f"COIN{rank}USDT",
            "lastPrice": f"{price:.8f}",
            "volume": f"{random.random() * 1e6:.3f}",
            "count": rank,
        }
        for rank, price in enumerate(prices)
    ]
    server.says(f"/{number}", json.dumps({"serverTime": random.randrange(10**12), "tickers": listed}))


def main(rounds: int) -> None:
    """Ask for so many minutes, and print what they took."""
    random.seed(1)
    options = "every: 1m, ignore: [serverTime], rate: {requests: 100000, seconds: 60}"
    apis = "".join(f"  a{number}: {{url: URL/{number}, {options}}}\n" for number in range(APIS))
    with tempfile.TemporaryDirectory() as folder, api_server() as server:
        text = f"name: many\nallow_private: true\napis:\n{apis}"
        mine = parse_collection(text.replace("URL", server.url), "many.yaml")
        warehouse = Warehouse(Path(folder) / "refresh.duckdb")
        prices = [[random.uniform(0.01, 9e4) for _ in range(TICKERS)] for _ in range(APIS)]
        sizes, seconds, failed = [], [], 0
        for minute in range(rounds):
            for number in range(APIS):
                if minute % changes_every(number) == 0:
                    prices[number] = [price * random.gauss(1, 0.001) for price in prices[number]]
                    answer(server, number, prices[number])
            began = time.process_time()
            now = BEGIN + timedelta(minutes=minute)
            attempts = refresh(warehouse, mine, mine.questions, now, lambda name: None, limits_dir=Path(folder))
            seconds.append(time.process_time() - began)
            failed += sum(bool(attempt.reason) for attempt in attempts.values())
            sizes.append(Path(warehouse.database).stat().st_size)
        half = rounds // 2
        [(payloads, raw)] = read(warehouse)
        deleted = prune_night(warehouse, mine, BEGIN + timedelta(minutes=rounds))
        after = Path(warehouse.database).stat().st_size
        quarters = [sizes[max(rounds * part // 4 - 1, 0)] / 1e6 for part in range(1, 5)]
    a_day = (sizes[-1] - sizes[half]) / (rounds - 1 - half) * DAY
    print(f"{rounds} minutes of {APIS} APIs: {payloads} payloads of {raw / payloads / 1e3:.1f} kB stored")
    print(f"{failed} questions failed")
    print(f"on disk {sizes[-1] / 1e6:.0f} MB for {raw / 1e6:.0f} MB of text; a day in proportion {a_day / 1e9:.2f} GB")
    print("on disk after each quarter: " + ", ".join(f"{size:.0f} MB" for size in quarters))
    print(f"that night's maintenance deletes {deleted} payloads above those kept; on disk {after / 1e6:.0f} MB")
    print(f"processor, server included: median {sorted(seconds)[half]:.2f} s a minute; the last {seconds[-1]:.2f} s")
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB at most")


def prune_night(warehouse: Warehouse, collection: Collection, now: datetime) -> int:
    """Delete what the collection keeps no longer, as maintenance does; gives how many payloads."""
    with warehouse.get_connection() as connection, transaction(connection):
        return prune(connection, collection, now)


def read(warehouse: Warehouse) -> list[tuple[int, int]]:
    """The number of payloads and the length of their texts."""
    with warehouse.reader() as connection:
        return connection.execute("select count(*), sum(length(payload)) from many.snapshots").fetchall()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else DAY)
