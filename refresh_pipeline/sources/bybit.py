"""Bybit's public klines: spot pairs and perpetual contracts, without an account.

Contract: Bybit's documentation of its v5 interface, "Get Kline". How requests are retried and slowed down is
`http_client`'s part.
"""

from collections.abc import Sequence
from typing import Any, Literal

import httpx
import numpy as np

from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import PermanentError, TransientError
from refresh_pipeline.sources.http_client import BaseUrl, RateLimited, by_status
from refresh_pipeline.sources.http_source import SourceOptions
from refresh_pipeline.sources.rows import json_body, unexpected
from refresh_pipeline.sources.windowed import Ask, WindowedSource, milliseconds, of_milliseconds

# Bybit's words for "Too many visits" and for its servers being busy.
TOO_MANY, BUSY = (10006, 10018), (10000, 10016)

# What the venue calls its timeframes.
INTERVALS = {
    Timeframe.m1: "1", Timeframe.m5: "5", Timeframe.m15: "15", Timeframe.m30: "30", Timeframe.H1: "60",
    Timeframe.H2: "120", Timeframe.H4: "240", Timeframe.H6: "360", Timeframe.D1: "D", Timeframe.W1: "W",
    Timeframe.MN1: "M",
}  # fmt: skip


class BybitOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl = "https://api.bybit.com"
    # What is traded: pairs, or perpetual contracts that are settled in a stable coin or in the coin itself.
    category: Literal["spot", "linear", "inverse"] = "spot"


class BybitSource(WindowedSource[BybitOptions]):
    """Candles of any pair or contract of Bybit."""

    kind = "bybit"
    options_model = BybitOptions
    called = INTERVALS
    rows = 1000
    # 600 in 5 seconds and address are allowed, for all of an address's programs.
    pace = (50, 1.0)

    def ask(self, symbol: str, timeframe: Timeframe, since: np.datetime64, until: np.datetime64) -> Ask:
        """See WindowedSource; Bybit's end is included."""
        params = {
            "category": self._options.category,
            "symbol": symbol,
            "interval": self.called[timeframe],
            "start": milliseconds(since),
            "end": milliseconds(until) - 1,
            "limit": self.rows,
        }
        return Ask("/v5/market/kline", params)

    def read(self, response: httpx.Response, symbol: str) -> Sequence[Any]:
        """See WindowedSource; Bybit lists the newest first and has its refusals in an answer of status 200."""
        body, _ = json_body(response)
        code = body.get("retCode") if isinstance(body, dict) else None
        if not response.is_success or code != 0:
            raise self._error(response, body if isinstance(body, dict) else {}, symbol)
        rows = body["result"].get("list") if isinstance(body.get("result"), dict) else None
        if not isinstance(rows, list):
            raise unexpected(response, "result.list with klines")
        return [of_milliseconds(row) for row in rows]

    @staticmethod
    def _error(response: httpx.Response, body: dict[str, Any], symbol: str) -> Exception:
        code = body.get("retCode")
        if not isinstance(code, int) or not response.is_success:
            return by_status(response) or unexpected(response, "retCode 0 and klines", "; is base_url right?")
        text = f"Bybit {code}: {excerpt(str(body.get('retMsg', '')))}"
        if code in TOO_MANY:
            return RateLimited(text)
        if code in BUSY:
            return TransientError(text)
        return PermanentError(f"{text}; asked for {symbol!r}: check the name, `category`, or give it its `symbol`")
