"""OKX's public candlesticks: spot pairs and contracts, without an account.

Contract: OKX's documentation of its v5 interface, "Get candlesticks history". How requests are retried and slowed down
is `http_client`'s part.
"""

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import PermanentError, TransientError
from refresh_pipeline.sources.http_client import BaseUrl, RateLimited, by_status
from refresh_pipeline.sources.http_source import SourceOptions
from refresh_pipeline.sources.rows import json_body, unexpected
from refresh_pipeline.sources.windowed import Ask, WindowedSource, milliseconds, of_milliseconds

# OKX's words for "Too Many Requests", and for systems that are busy or being maintained.
TOO_MANY, BUSY = ("50011", "50061"), ("50001", "50004", "50013", "50026")

# What the venue calls its timeframes.
INTERVALS = {
    Timeframe.m1: "1m", Timeframe.m5: "5m", Timeframe.m15: "15m", Timeframe.m30: "30m", Timeframe.H1: "1H",
    Timeframe.H2: "2H", Timeframe.H4: "4H", Timeframe.H6: "6Hutc", Timeframe.D1: "1Dutc", Timeframe.W1: "1Wutc",
    Timeframe.MN1: "1Mutc",
}  # fmt: skip


class OkxOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl = "https://www.okx.com"


class OkxSource(WindowedSource[OkxOptions]):
    """Candles of any instrument of OKX, on its grid in UTC."""

    kind = "okx"
    options_model = OkxOptions
    called = INTERVALS
    rows = 100
    # 20 in 2 seconds and address are allowed.
    pace = (18, 2.0)

    def _default_symbol(self, instrument: str) -> str:
        return instrument.replace("/", "-").upper()

    def ask(self, symbol: str, timeframe: Timeframe, since: np.datetime64, until: np.datetime64) -> Ask:
        """See WindowedSource; rows are older than OKX's `after` and newer than its `before`."""
        params = {
            "instId": symbol,
            "bar": self.called[timeframe],
            "after": milliseconds(until),
            "before": milliseconds(since) - 1,
            "limit": self.rows,
        }
        return Ask("/api/v5/market/history-candles", params)

    def read(self, response: httpx.Response, symbol: str) -> Sequence[Any]:
        """See WindowedSource; OKX lists the newest first."""
        body, _ = json_body(response)
        body = body if isinstance(body, dict) else {}
        if not response.is_success or body.get("code") != "0":
            raise self._error(response, body, symbol)
        rows = body.get("data")
        if not isinstance(rows, list):
            raise unexpected(response, "data with candlesticks")
        return [of_milliseconds(row) for row in rows]

    @staticmethod
    def _error(response: httpx.Response, body: dict[str, Any], symbol: str) -> Exception:
        code = body.get("code")
        text = f"OKX {code}: {excerpt(str(body.get('msg', '')))}"
        if code in TOO_MANY:
            return RateLimited(text)
        if code in BUSY:
            return TransientError(text)
        if isinstance(code, str) and code != "0":
            return PermanentError(f"{text}; asked for {symbol!r}: check the name, or give it its `symbol`")
        return by_status(response) or unexpected(response, "code 0 and candlesticks", "; is base_url right?")
