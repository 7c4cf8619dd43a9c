"""An API as a client asks it: `/api/v1`, page after page."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.client.errors import ClientError
from refresh_pipeline.client.folder import change_columns, only_api
from refresh_pipeline.client.place import Columns, Question
from refresh_pipeline.market.candles import instant, parse_instant
from refresh_pipeline.warehouse.arrays import texts, timestamp

PAGE = 10_000
# Payloads of a page.
PAYLOADS = 1000
TIMEOUT = 60.0
# Answers after which the same question is asked again, the seconds to wait at most in all, and at least each time.
AGAIN, PATIENCE, SHORTEST_WAIT = (429, 503), 30.0, 0.1
# Before every candle.
BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
OF_SERIES = ("market", "instrument", "timeframe")
# Columns of a series and of a gap, with the columns that hold times.
SERIES = ("candle_count", "first_open_time", "last_open_time", "version")
GAPS = ("first_open_time", "last_open_time", "candles")
TIMES = ("first_open_time", "last_open_time")
# The API's names of both, in rows of series and in gaps.
OF_CANDLES = {"first_candle": "first_open_time", "newest_candle": "last_open_time"}
OF_GAPS = {"first": "first_open_time", "last": "last_open_time"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")


class ServerPlace:
    """The API at a URL."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"Accept": "application/json", **({"X-API-Key": key} if key else {})}
        self._url, self._headers = url.rstrip("/"), headers

    def rows(self, question: Question) -> Columns:
        """The rows of one series, read in as many pages as they need."""
        pages = list(self._pages(question))
        columns = [name for name in pages[0] if name != "open_time"]
        joined = {name: _values([value for page in pages for value in page[name]]) for name in columns}
        return {"open_time": _times([value for page in pages for value in page["open_time"]]), **joined}

    def series(self, market: str | None) -> Columns:
        """The series of the API's markets."""
        listed = self._get("/series", {"market": market})["series"]
        rows = [_renamed(row, OF_CANDLES) for row in listed if row["candle_count"]]
        return _table(sorted(rows, key=_key), (*OF_SERIES, *SERIES))

    def gaps(self, market: str | None) -> Columns:
        """The missing candles as of the last refresh."""
        series = self._get("/gaps", {"market": market})["series"]
        rows = [
            {**{name: row[name] for name in OF_SERIES}, **_renamed(gap, OF_GAPS)}
            for row in series
            for gap in row["gaps"]
        ]
        return _table(sorted(rows, key=_key), (*OF_SERIES, *GAPS))

    def snapshots(self, api: str, since: datetime | None, until: datetime | None, limit: int | None) -> Columns:
        """The columns of an API's payloads, read in as many pages as they need."""
        listed = self._get("/snapshots", {})["snapshots"]
        names = [(row["collection"], row["api"]) for row in listed if row["payloads"]]
        found = [(collection, one) for collection, one in names if api in (one, f"{collection}.{one}")]
        collection, name = only_api(api, found)
        bounds = {"since": _iso(BEGINNING if since is None and limit is None else since), "until": _iso(until)}
        pages: list[Mapping[str, list[Any]]] = []
        left = limit
        while True:
            asked = {**bounds, "limit": PAYLOADS if left is None else min(left, PAYLOADS), "format": "columns"}
            page = self._sized(f"/snapshots/{collection}/{name}", asked)
            pages.append(page["data"])
            left = None if left is None else left - len(set(page["data"]["fetched_at"]))
            if left == 0 or not page.get("next"):
                return {name: _values([value for each in pages for value in each[name]]) for name in pages[0]}
            bounds["since"] = httpx.URL(page["next"]).params["since"]

    def changes(self, after: int, epoch: str | None) -> tuple[str, int, Columns, bool]:
        """What `/changes` says, all pages of it."""
        rows: list[tuple[object, ...]] = []
        reset = False
        while True:
            page = self._get("/changes", {"after": after, "epoch": epoch, "limit": PAGE})
            reset, after, epoch = reset or page["reset"], page["version"], page["epoch"] or None
            rows += [
                (
                    *(change[name] for name in ("version", "market", "asset", "instrument", "timeframe")),
                    _instant(change["since"]),
                    _instant(change["changed_at"]),
                )
                for change in page["changes"]
            ]
            if len(page["changes"]) < PAGE:
                return epoch or "", after, change_columns(rows), reset

    def _pages(self, question: Question) -> Iterator[Mapping[str, list[Any]]]:
        left, asked = question.limit, _parameters(question)
        while True:
            page = self._page(question, {**asked, "limit": PAGE if left is None else min(left, PAGE)})
            yield page["data"]
            left = None if left is None else left - page["records"]
            if left == 0 or not page.get("next"):
                return
            asked["since"] = httpx.URL(page["next"]).params["since"]

    def _page(self, question: Question, asked: dict[str, Any]) -> dict[str, Any]:
        return self._sized(f"/data/{question.instrument}/{question.timeframe}", asked)

    def _sized(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        """An answer, smaller where it would be too large."""
        try:
            return self._get(path, asked)
        except _TooManyCells as error:
            return self._get(path, {**asked, "limit": error.limit})

    def _get(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        params = {name: value for name, value in asked.items() if value is not None}
        patience = PATIENCE
        while True:
            try:
                answer = httpx.get(f"{self._url}/api/v1{path}", params=params, headers=self._headers, timeout=TIMEOUT)
            except httpx.HTTPError as error:
                raise ClientError(f"{self._url} does not answer: {error}; start it with refresh serve") from error
            if answer.is_success:
                return answer.json()
            wait = _wait(answer)
            if wait is None or wait > patience:
                raise _refusal(answer)
            patience -= wait
            time.sleep(wait)


class _TooManyCells(ClientError):
    """The page is too large; `limit` is what is allowed."""

    def __init__(self, message: str, limit: int) -> None:
        super().__init__(message, 400)
        self.limit = limit


def _wait(answer: httpx.Response) -> float | None:
    """Seconds after which the API wants to be asked again; None where asking again does not help."""
    stated = answer.headers.get("Retry-After", "")
    return max(float(stated), SHORTEST_WAIT) if answer.status_code in AGAIN and stated.isdigit() else None


def _refusal(answer: httpx.Response) -> ClientError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    message = f"{problem.get('title') or answer.reason_phrase}: {problem.get('detail') or answer.url.path}"
    if str(problem.get("type", "")).endswith("too-many-cells") and isinstance(problem.get("limit"), int):
        return _TooManyCells(message, problem["limit"])
    return ClientError(message, answer.status_code)


def _parameters(question: Question) -> dict[str, Any]:
    since = question.since
    if since is None and question.limit is None:
        # Without a bound the API gives the newest rows alone.
        since = BEGINNING
    return {
        "market": question.market,
        "layer": question.layer,
        "columns": None if question.columns is None else ",".join(question.columns),
        "since": _iso(since),
        "until": _iso(question.until),
        "as_of": _iso(question.as_of),
        "adjusted": "true" if question.adjusted else None,
        "format": "columns",
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else f"{instant(moment)}Z"


def _instant(text: str | None) -> datetime | None:
    return None if text is None else timestamp(parse_instant(text))


def _times(values: Sequence[str | None]) -> NDArray:
    return np.array([value.removesuffix("Z") if value else "NaT" for value in values], dtype="datetime64[us]")


def _values(values: Sequence[Any]) -> NDArray:
    """One column: numbers as numbers with NaN for null, everything else as objects."""
    known = {type(value) for value in values if value is not None}
    if known == {str} and TIME.fullmatch(next(value for value in values if value is not None)):
        return _times(values)
    if not known <= {int, float, bool}:
        return texts(values) if known == {str} else np.array(values, dtype=object)
    if known and known <= {int} and None not in values:
        return np.array(values, dtype=np.int64)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _renamed(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in row.items()}


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in (*OF_SERIES, "first_open_time"))


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Columns:
    def column(name: str) -> NDArray:
        values = [row.get(name) for row in rows]
        if name in TIMES:
            return _times(values)
        return texts(values) if name in OF_SERIES else _values(values)

    return {name: column(name) for name in names}
