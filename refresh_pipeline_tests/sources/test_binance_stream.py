"""Attempts to connect to Binance's streams: the venue allows an address so many, whoever makes them."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime

from refresh_pipeline.market.model import parse_market
from refresh_pipeline.sources import binance_stream
from refresh_pipeline.sources.binance_stream import BinanceStream
from refresh_pipeline.sources.rate_limits import SharedLimit
from refresh_pipeline_tests.fakes.binance_stream import StreamingBinance
from refresh_pipeline_tests.sources.listening import Heard, listening

YAML = """
name: {name}
source: {{kind: binance, base_url: "{url}"}}
calendar: crypto
instruments: [BTC/USDT, ETH/USDT]
timeframes: [m1]
history: 1d
live: {{streams: 2}}
"""
ATTEMPTS, NOW = 8, datetime(2024, 6, 3, 12, tzinfo=UTC)


def test_no_more_attempts_to_connect_are_made_than_the_venue_allows_an_address(tmp_path, monkeypatch):
    assert (binance_stream.ATTEMPTS, binance_stream.ATTEMPTS_SECONDS) == (300, 300.0)
    monkeypatch.setattr(binance_stream, "ATTEMPTS", ATTEMPTS)
    monkeypatch.setattr(binance_stream, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(binance_stream, "LONGEST_WAIT", 0.01)
    with StreamingBinance(lambda: NOW, symbols=("BTCUSDT", "ETHUSDT")) as venue, ExitStack() as stack:
        venue.faults.refused = True
        heard = Heard()
        # Two markets, as two processes have them: each its own view of one account, and two connections.
        for name in ("one", "two"):
            market = parse_market(YAML.format(name=name, url=venue.base_url), f"{name}.yaml")
            stack.enter_context(listening(BinanceStream(market, tmp_path), market.series, heard))
        heard.wait_until(lambda: len(heard.reasons) == ATTEMPTS)
        [account] = tmp_path.glob("binance-stream*.json")
        another = SharedLimit(tmp_path, account.stem, ATTEMPTS, binance_stream.ATTEMPTS_SECONDS)
        assert another.take(1) > 0
        # As long as ten attempts would take.
        time.sleep(0.3)
        assert venue.refusals == ATTEMPTS
        assert len(heard.reasons) == ATTEMPTS
