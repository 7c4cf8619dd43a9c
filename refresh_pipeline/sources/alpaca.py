"""Alpaca's market data: bars of US shares and funds; needs an account's key, a free one serves the exchange IEX.

Contract: Alpaca's documentation of Market Data v2, "Historical bars". How requests are retried and slowed down is
`http_client`'s part.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import httpx
import numpy as np

from refresh_pipeline.market.adjustments import Adjustment, AdjustmentKind
from refresh_pipeline.market.candles import Candles, iso_utc
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import PermanentError, Request
from refresh_pipeline.sources.http_client import AccessDenied, BaseUrl, by_status, is_fit_for_a_header
from refresh_pipeline.sources.http_source import SourceOptions
from refresh_pipeline.sources.rows import json_body, number, unexpected
from refresh_pipeline.sources.windowed import Ask, WindowedSource

# What the venue calls its timeframes.
INTERVALS = {
    Timeframe.m1: "1Min", Timeframe.m5: "5Min", Timeframe.m15: "15Min", Timeframe.m30: "30Min",
    Timeframe.H1: "1Hour", Timeframe.D1: "1Day", Timeframe.W1: "1Week", Timeframe.MN1: "1Month",
}  # fmt: skip


class AlpacaOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl = "https://data.alpaca.markets"
    # Whether the key may go to another machine without encryption.
    insecure_http: bool = False
    # The settings that hold the key's two parts.
    client_id: str = "REFRESH_SECRET_ALPACA_KEY"
    access_token: str = "REFRESH_SECRET_ALPACA_SECRET"  # noqa: S105 (its name)
    # Free keys see IEX; SIP, all exchanges, is a subscription, free once it is 15 minutes old.
    feed: Literal["iex", "sip"] = "iex"
    adjustment: Literal["raw", "split", "dividend", "all"] = "raw"


class AlpacaSource(WindowedSource[AlpacaOptions]):
    """Bars of US shares and funds, raw unless the YAML asks for adjusted ones."""

    kind = "alpaca"
    options_model = AlpacaOptions
    called = INTERVALS
    rows = 10_000
    has_key = True
    # 200 a minute are allowed on free plans.
    pace = (180, 60.0)

    def _default_symbol(self, instrument: str) -> str:
        return instrument

    def headers(self) -> dict[str, str]:
        """See WindowedSource.

        Raises:
            PermanentError: a part of the key is not set, or holds what no header may.
        """
        named = {"APCA-API-KEY-ID": self._options.client_id, "APCA-API-SECRET-KEY": self._options.access_token}
        values = {header: self._secrets(setting) for header, setting in named.items()}
        for header, setting in named.items():
            value = values[header]
            if not value or not is_fit_for_a_header(value):
                found = "holds blanks or characters that no key has" if value else "is not set"
                raise PermanentError(
                    f"Alpaca wants a key of two parts, and {setting} {found}; make one on Alpaca's web site, "
                    "and put it into .env or the environment"
                )
        return {header: str(value) for header, value in values.items()}

    def ask(self, symbol: str, timeframe: Timeframe, since: np.datetime64, until: np.datetime64) -> Ask:
        """See WindowedSource; Alpaca's end is included."""
        margin = np.timedelta64(0 if timeframe.is_intraday else 1, "D")
        params = {
            "timeframe": self.called[timeframe],
            "start": iso_utc(since - margin),
            "end": iso_utc(until + margin),
            "limit": self.rows,
            "adjustment": self._options.adjustment,
            "feed": self._options.feed,
            "sort": "asc",
        }
        return Ask(f"/v2/stocks/{quote(symbol, safe='')}/bars", params)

    def opened(self, request: Request, candles: Candles) -> Candles:
        """See WindowedSource: days, weeks and months begin with the calendar's; Alpaca stamps midnight in New York."""
        timeframe = request.series.timeframe
        if timeframe.is_intraday:
            return candles
        # A week is stamped with its Monday's midnight, which may lie before the calendar's first session.
        noon = candles.open_time + np.timedelta64(12, "h")
        floored = self._market.calendar_of(request.series.instrument).floor(timeframe, noon)
        return Candles(floored, candles.columns, candles.malformed)

    def read(self, response: httpx.Response, symbol: str) -> Sequence[Any]:
        """See WindowedSource; a symbol without bars in the window is answered with null."""
        body, _ = json_body(response)
        if not response.is_success:
            raise self._error(response, body, symbol)
        bars = body.get("bars", ...) if isinstance(body, dict) else ...
        if bars is None or isinstance(bars, list):
            return [_row(bar) for bar in bars or []]
        raise unexpected(response, "bars", "; is base_url right?")

    def ask_adjustments(self, symbol: str, since: np.datetime64, until: np.datetime64) -> Ask:
        """See WindowedSource; one answer holds a thousand, more than a share has in a century."""
        params = {
            "symbols": symbol,
            "types": "forward_split,reverse_split,cash_dividend",
            "start": str(since.astype("datetime64[D]")),
            "end": str(until.astype("datetime64[D]")),
            "limit": 1000,
        }
        return Ask("/v1/corporate-actions", params)

    def read_adjustments(self, response: httpx.Response, instrument: str) -> Sequence[Adjustment]:
        """See WindowedSource: an ex-date is a day in New York."""
        body, _ = json_body(response)
        if not response.is_success:
            raise self._error(response, body, instrument)
        actions = body.get("corporate_actions") if isinstance(body, dict) else None
        if not isinstance(actions, dict):
            raise unexpected(response, "corporate_actions")
        found = []
        for name in ("forward_splits", "reverse_splits"):
            for each in actions.get(name) or ():
                old = number(each.get("old_rate"))
                found.append((AdjustmentKind.split, each, number(each.get("new_rate")) / old if old else np.nan))
        for each in actions.get("cash_dividends") or ():
            found.append((AdjustmentKind.dividend, each, number(each.get("rate"))))
        follows = self._options.adjustment
        return [
            Adjustment(instrument, session, kind, value, follows in {kind.value, "all"})
            for kind, each, value in found
            if value > 0 and (session := self._session(instrument, each.get("ex_date"))) is not None
        ]

    def _session(self, instrument: str, day: object) -> np.datetime64 | None:
        try:
            return self.session_of(instrument, np.datetime64(f"{day}T17:00", "us"))
        except ValueError:
            return None

    def following(self, response: httpx.Response) -> Mapping[str, Any]:
        """See WindowedSource; an answer may hold fewer bars than its limit, and a token for the next page."""
        body, _ = json_body(response)
        token = body.get("next_page_token") if isinstance(body, dict) else None
        return {"page_token": token} if isinstance(token, str) and token else {}

    def _error(self, response: httpx.Response, body: Any, symbol: str) -> Exception:
        message = body.get("message") if isinstance(body, dict) else None
        text = f"HTTP {response.status_code}: {excerpt(str(message) if message else response.text)}"
        if response.status_code in (401, 403):
            names = f"{self._options.client_id} and {self._options.access_token}"
            return AccessDenied(f"{text}; are {names} right, and does the plan have the feed {self._options.feed}?")
        if response.status_code in (400, 404, 422):
            return PermanentError(f"{text}; asked for {symbol!r}: check the name, or give it its `symbol`")
        return by_status(response) or PermanentError(text)


def _row(bar: Any) -> Any:
    if not isinstance(bar, dict):
        return bar
    try:
        opened = int(np.datetime64(str(bar["t"]).removesuffix("Z"), "us").astype(np.int64))
    except (KeyError, ValueError):
        return bar
    return (opened, *(bar.get(name) for name in ("o", "h", "l", "c", "v")))
