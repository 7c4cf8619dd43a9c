"""Kraken's public API in miniature: pairs and candles over real HTTP on loopback, as ccxt asks for them.

    with FakeKraken(now=NOW) as venue:
        ...  # put venue.base_url into a market's YAML of kind ccxt, exchange kraken

An answer has the newest 720 candles after `since`, the forming one included.
"""

import zlib
from datetime import datetime
from email.utils import format_datetime
from typing import Any

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

PAIRS = {"XXBTZUSD": ("XBTUSD", "XXBT"), "XETHZUSD": ("ETHUSD", "XETH")}
TOO_MANY = Fault(200, {"error": ["EAPI:Rate limit exceeded"]})
BUSY = Fault(200, {"error": ["EService:Unavailable"]})


class FakeKraken(LoopbackServer):
    """The venue; `now` is its clock, `begins` when its candles begin, `most` how many an answer has."""

    def __init__(self, now: datetime, begins: datetime | None = None, most: int = 720) -> None:
        super().__init__()
        self.now = now
        self.begins = begins
        self.most = most

    @property
    def pages(self) -> list[int]:
        """`since` of each question for candles."""
        return [int(each.query["since"]) for each in self.asked if each.path.endswith("/OHLC")]

    async def answer(self, request: web.Request) -> web.Response:
        """By the path."""
        if request.path == "/0/public/AssetPairs":
            return web.json_response({"error": [], "result": {pair: _described(pair) for pair in PAIRS}})
        if request.path == "/0/public/OHLC":
            dated = {"Date": format_datetime(self.now, usegmt=True)}
            return web.json_response(self._candles(dict(request.query)), headers=dated)
        return web.json_response({"error": [], "result": {}})

    def _candles(self, query: dict[str, str]) -> dict[str, Any]:
        pair, length = query["pair"], int(query["interval"]) * 60
        if pair not in PAIRS:
            return {"error": ["EQuery:Unknown asset pair"]}
        first = max(int(query["since"]) + 1, int(self.begins.timestamp()) if self.begins else 0)
        opens = np.arange(-(-first // length) * length, int(self.now.timestamp()) + 1, length)[-self.most :]
        rows = [row(pair, at) for at in opens.tolist()]
        return {"error": [], "result": {pair: rows, "last": int(opens[-1]) if len(opens) else 0}}


def row(pair: str, at: int) -> list[Any]:
    """The candle that opens at so many seconds since 1970."""
    base = 10 + zlib.crc32(pair.encode()) % 90
    opened, closed = (round(float(base + np.sin(each / 5000)), 4) for each in (at, at + 60))
    prices = [opened, max(opened, closed) + 0.5, min(opened, closed) - 0.5, closed]
    return [at, *(f"{price:.4f}" for price in prices), f"{closed:.4f}", "3.5", 7]


def _described(pair: str) -> dict[str, Any]:
    altname, base = PAIRS[pair]
    return {
        "altname": altname,
        "wsname": f"{altname[:3]}/USD",
        "aclass_base": "currency",
        "base": base,
        "aclass_quote": "currency",
        "quote": "ZUSD",
        "pair_decimals": 4,
        "lot_decimals": 8,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.26]],
        "fees_maker": [[0, 0.16]],
        "ordermin": "0.0001",
        "status": "online",
    }
