"""Candles in Redis: a real server, and readers as the service before this had them."""

import io
import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis

from refresh_pipeline.destinations import DestinationError, PermanentUploadError, TransientUploadError
from refresh_pipeline.destinations.redis import (
    NAMES,
    STATUS_KEY,
    CandleWindow,
    RedisDestination,
    kline_key,
    timestamp_key,
    value_of,
)
from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline_tests.redis_server import PASSWORD, free_port, redis_server

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
BTC, ETH, DOGE = (Series(f"{name}/USDT", Timeframe.m15) for name in ("BTC", "ETH", "DOGE"))
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def client(server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server, decode_responses=True) as client:
        client.flushdb()
        yield client


def window(series: Series = BTC, count: int = 2880, seed: int = 1) -> CandleWindow:
    """Thirty days of a price that wanders, as a venue quotes it."""
    random = np.random.default_rng(seed)
    close = np.round(60_000 * np.exp(np.cumsum(random.normal(0, 0.001, count))), 2)
    cells = (close, close + 10.5, close - 10.25, close, random.random(count) * 1e3)
    columns: dict[str, Any] = dict(zip(CANDLE_COLUMNS, cells, strict=True))
    newest = instant(datetime(2026, 6, 1, 11, 45, tzinfo=UTC))
    times = newest - np.arange(count)[::-1] * length_of(series.timeframe)
    return CandleWindow(series, times, columns, 1.0, 30.0)


def test_keys_are_those_of_the_service_before_this(server: str, client: redis.Redis) -> None:
    list(RedisDestination(server).store([window()], NOW))
    assert sorted(client.keys()) == ["tet:kline:15m:BTC/USDT", "tet:timestamp:15m:BTC/USDT"]
    assert server.endswith("/1")
    assert client.ttl("tet:kline:15m:BTC/USDT") == pytest.approx(24 * 3600, abs=5)
    assert client.ttl("tet:timestamp:15m:BTC/USDT") == pytest.approx(2 * 3600, abs=5)
    assert client.get("tet:timestamp:15m:BTC/USDT") == "2026-06-01T12:00:30Z"


def test_a_value_says_what_its_readers_expect(server: str, client: redis.Redis) -> None:
    list(RedisDestination(server).store([window()], NOW))
    value = json.loads(str(client.get("tet:kline:15m:BTC/USDT")))
    candles = value.pop("ohlcv_data")
    assert value == {
        "last_candle_time": "2026-06-01T11:45:00Z",
        "last_update": "2026-06-01T12:00:30Z",
        "data_start": "2026-05-02T12:00:00Z",
        "data_end": "2026-06-01T11:45:00Z",
        "data_completeness": 1.0,
        "candle_count": 2880,
        "timeframe": "15m",
        "data_age_seconds": 30.0,
    }
    frame = pd.read_json(io.StringIO(candles), orient="index")
    frame.index = pd.to_datetime(frame.index)
    assert [*frame.columns] == [*CANDLE_COLUMNS]
    np.testing.assert_array_equal(frame.index.to_numpy().astype("datetime64[us]"), window().open_times)
    for name, values in window().columns.items():
        np.testing.assert_allclose(frame[name], values, rtol=1e-12)


def test_every_number_reads_back_as_itself_and_an_unknown_volume_is_null() -> None:
    one = window(count=3)
    volume = np.array([1e-300, np.nan, 0.1 + 0.2])
    value = json.loads(value_of(CandleWindow(BTC, one.open_times, {**one.columns, "volume": volume}, 1.0, 0.0), NOW))
    rows = list(json.loads(value["ohlcv_data"]).values())
    assert [row["volume"] for row in rows] == [1e-300, None, 0.1 + 0.2]
    assert [row["close"] for row in rows] == one.columns["close"].tolist()


def test_a_window_takes_the_place_of_what_was_there_and_is_never_a_part_of_itself(
    server: str, client: redis.Redis
) -> None:
    destination = RedisDestination(server)
    list(destination.store([window()], NOW))
    client.expire("tet:kline:15m:BTC/USDT", 60)
    list(destination.store([window(seed=2)], NOW + timedelta(minutes=15)))
    assert destination.counts([BTC, ETH]) == {BTC: 2880}
    assert client.ttl("tet:kline:15m:BTC/USDT") > 3600


def test_thirty_days_of_a_symbol_take_less_than_two_megabytes(server: str, client: redis.Redis) -> None:
    [kept] = RedisDestination(server).store([window()], NOW)
    used = sum(client.memory_usage(key) or 0 for key in client.scan_iter("tet:*"))
    assert 0.2 * MEBIBYTE < kept.bytes <= used < 0.5 * MEBIBYTE


@pytest.mark.parametrize(("timeframe", "name"), [("m1", "1m"), ("H4", "4h"), ("D1", "1d"), ("W1", "1w"), ("MN1", "1M")])
def test_timeframes_are_called_as_readers_of_redis_call_them(timeframe: str, name: str) -> None:
    assert kline_key(Series("A/B", Timeframe(timeframe))) == f"tet:kline:{name}:A/B"
    assert timestamp_key(Series("A/B", Timeframe(timeframe))) == f"tet:timestamp:{name}:A/B"
    assert set(NAMES) == set(Timeframe)


def test_the_systems_status_is_told_for_two_hours(server: str, client: redis.Redis) -> None:
    status: Mapping[str, object] = {"active_symbols": 3, "failed_updates": 0}
    RedisDestination(server).write_status(status)
    assert json.loads(str(client.get(STATUS_KEY))) == status
    assert client.ttl(STATUS_KEY) == pytest.approx(2 * 3600, abs=5)


def test_a_server_that_is_gone_is_recognised_after_a_few_series() -> None:
    destination = RedisDestination(f"redis://127.0.0.1:{free_port()}/1", timeout=0.2)
    kept = list(destination.store([window(each, count=2) for each in (BTC, ETH, DOGE) * 4], NOW))
    assert all(isinstance(each.error, TransientUploadError) for each in kept)
    assert "is the server running?" in str(kept[0].error)
    with pytest.raises(TransientUploadError):
        destination.counts([BTC])


def test_a_server_with_a_password_takes_the_right_one_alone_and_shows_none() -> None:
    with redis_server("--requirepass", PASSWORD) as url:
        [kept] = RedisDestination(url, password=PASSWORD).store([window(count=2)], NOW)
        assert kept.error is None
        for wrong in ("", "another"):
            refused = list(RedisDestination(url, password=wrong).store([window(count=2)] * 2, NOW))
            assert all(isinstance(each.error, PermanentUploadError) for each in refused)
            assert "REDIS_PASSWORD" in str(refused[0].error)
        assert PASSWORD not in repr(RedisDestination(url, password=PASSWORD))


def test_a_server_without_room_says_so_and_keeps_what_it_has() -> None:
    with redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as url:
        windows = [window(Series(f"C{number}/USDT", Timeframe.m15)) for number in range(20)]
        kept = list(RedisDestination(url).store(windows, NOW))
        assert kept[0].error is None
        assert "memory is full" in str(kept[-1].error)
        held = RedisDestination(url).counts([each.series for each in windows])
        assert set(held.values()) == {2880}


def test_something_else_under_a_key_is_told(server: str, client: redis.Redis) -> None:
    client.set(kline_key(BTC), "no json")
    with pytest.raises(PermanentUploadError, match="something else than candles"):
        RedisDestination(server).counts([BTC])


class _Old(socketserver.StreamRequestHandler):
    """A server that knows no HELLO, and one that quotes what it was told."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2].decode())
            if words[0] in ("HELLO", "SET", "GET"):
                quoted = " ".join(f"'{word[:60]}'" for word in [*words[1:], "CANARY_user", "CANARY_pass", "\x1b[2J"])
                self.wfile.write(f"-ERR unknown command '{words[0]}', with args beginning with: {quoted}\r\n".encode())
            else:
                self.wfile.write(b"+OK\r\n")


def test_a_server_without_hello_is_spoken_to_and_no_error_shows_a_secret() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Old) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{server.server_address[1]}/0"
        destination = RedisDestination(url, "CANARY_user", "CANARY_pass", timeout=2.0)
        with pytest.raises(DestinationError, match="unknown command 'SET'") as caught:
            destination.write_status({"a": 1})
        server.shutdown()
    assert "CANARY" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
