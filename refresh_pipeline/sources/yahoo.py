"""Yahoo Finance's chart interface: shares, funds, indices and currencies without an account.

Contract: the interface has no documentation; requests and answers are those of yfinance 0.2. How requests are retried
and slowed down is `http_client`'s part.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np

from refresh_pipeline.market.adjustments import Adjustment, AdjustmentKind
from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import PermanentError, Request
from refresh_pipeline.sources.http_client import BaseUrl, by_status
from refresh_pipeline.sources.http_source import SourceOptions
from refresh_pipeline.sources.rows import json_body, number, unexpected
from refresh_pipeline.sources.windowed import Ask, WindowedSource

# Clients without the name of a browser are refused.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
SECOND = 1_000_000
# A day's bars at most, so that a week of minutes is one request.
ROWS = 7 * 24 * 60

# What the venue calls its timeframes.
INTERVALS = {
    Timeframe.m1: "1m", Timeframe.m5: "5m", Timeframe.m15: "15m", Timeframe.m30: "30m", Timeframe.H1: "60m",
    Timeframe.D1: "1d", Timeframe.W1: "1wk", Timeframe.MN1: "1mo",
}  # fmt: skip


class YahooOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl = "https://query1.finance.yahoo.com"
    # Bars before the opening and after the close.
    extended_hours: bool = False


class YahooSource(WindowedSource[YahooOptions]):
    """Candles of Yahoo's symbols, adjusted for splits as Yahoo does, not for dividends."""

    kind = "yahoo"
    options_model = YahooOptions
    called = INTERVALS
    rows = ROWS
    pace = (60, 60.0)

    def _default_symbol(self, instrument: str) -> str:
        """Pairs of currencies end in =X; everything else is its own name."""
        return f"{instrument.replace('/', '').upper()}=X" if "/" in instrument else instrument

    def headers(self) -> dict[str, str]:
        """See WindowedSource."""
        return {"User-Agent": USER_AGENT}

    def ask(self, symbol: str, timeframe: Timeframe, since: np.datetime64, until: np.datetime64) -> Ask:
        """See WindowedSource; a day's bar is stamped with the opening, so that a day more is asked for at both ends."""
        margin = np.timedelta64(0 if timeframe.is_intraday else 1, "D").astype("timedelta64[us]")
        params = {
            "period1": int((since - margin).astype(np.int64)) // SECOND,
            "period2": -(-int((until + margin).astype(np.int64)) // SECOND),
            "interval": self.called[timeframe],
            "includePrePost": str(self._options.extended_hours).lower(),
            "events": "div,splits",
        }
        return Ask(f"/v8/finance/chart/{quote(symbol, safe='')}", params)

    def opened(self, request: Request, candles: Candles) -> Candles:
        """See WindowedSource: days, weeks and months begin with the calendar's, wherever in them Yahoo stamps the bar.

        Of minutes and hours the snapshot of the running bar, which Yahoo adds at the last trade's time, is left out.
        """
        timeframe = request.series.timeframe
        floored = self._market.calendar_of(request.series.instrument).floor(timeframe, candles.open_time)
        if not timeframe.is_intraday:
            return Candles(floored, candles.columns, candles.malformed)
        is_last = np.arange(len(candles)) == len(candles) - 1
        return candles.where(~is_last | (floored == candles.open_time))

    def adjustments(self, response: httpx.Response, instrument: str) -> Sequence[Adjustment]:
        """See WindowedSource: events are stamped with the opening of their session; prices follow splits already."""
        try:
            (result,) = json_body(response)[0]["chart"]["result"]
            events = _events(result)
        except (LookupError, TypeError, ValueError, AttributeError):
            return ()
        return [
            Adjustment(
                instrument,
                self.session_of(instrument, np.datetime64(time * SECOND, "us")),
                kind,
                value,
                kind is AdjustmentKind.split,
            )
            for kind, time, value in events
        ]

    def read(self, response: httpx.Response, symbol: str) -> Sequence[Any]:
        """See WindowedSource; bars without a price are minutes or days without trade."""
        body, _ = json_body(response)
        chart = body.get("chart") if isinstance(body, dict) else None
        chart = chart if isinstance(chart, dict) else {}
        if not response.is_success or chart.get("error"):
            return _without_candles(response, chart, symbol)
        try:
            (result,) = chart["result"]
            (quotes,) = result["indicators"]["quote"]
            times = result.get("timestamp", [])
            columns = [quotes.get(name, []) for name in ("open", "high", "low", "close", "volume")]
            rows = [_row(*row) for row in zip(times, *columns, strict=bool(times))]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise unexpected(response, "chart.result with timestamp and indicators.quote") from error
        return [row for row in rows if any(cell is not None for cell in row[1:5])]


def _events(result: Any) -> list[tuple[AdjustmentKind, int, float]]:
    """Kind, time and value of each split and dividend; what Yahoo writes otherwise is left out."""
    events = result.get("events") or {}
    found = []
    for event in (events.get("splits") or {}).values():
        numerator, denominator = number(event.get("numerator")), number(event.get("denominator"))
        found.append((AdjustmentKind.split, event.get("date"), numerator / denominator if denominator else np.nan))
    for event in (events.get("dividends") or {}).values():
        found.append((AdjustmentKind.dividend, event.get("date"), number(event.get("amount"))))
    return [each for each in found if isinstance(each[1], int) and np.isfinite(each[2]) and each[2] > 0]


def _row(time: Any, *cells: Any) -> tuple[Any, ...]:
    is_time = isinstance(time, int) and not isinstance(time, bool)
    return (time * SECOND if is_time else time, *cells)


def _without_candles(response: httpx.Response, chart: dict[str, Any], symbol: str) -> Sequence[Any]:
    error = chart.get("error")
    said = str(error.get("description", "")) if isinstance(error, dict) else ""
    text = f"HTTP {response.status_code}: {excerpt(said or response.text)}"
    # A stretch before the first day of trade, or one without a session.
    if "Data doesn't exist for startDate" in said:
        return []
    if "requested range must be within" in said or "is not available" in said or "not available for startTime" in said:
        raise PermanentError(f"{text}; set a shorter history: minutes reach back 30 or 60 days, hours 730")
    if response.status_code == 404:
        raise PermanentError(f"{text}; check Yahoo's symbol {symbol!r}, or give the instrument its `symbol`")
    raise by_status(response) or PermanentError(text)
