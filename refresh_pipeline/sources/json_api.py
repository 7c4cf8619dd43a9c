"""Any JSON API by configuration: what to ask, where the candles lie in the answer, and what its fields are called.

What a market's YAML may say is `HttpOptions`; docs/sources/http.md explains it. A long stretch is asked for in windows
of as many candles as an answer holds. Every API understands them that takes two instants, or one and a number. How
requests are retried and slowed down is `http_client`'s part.
"""

import json
import re
import string
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

import httpx
import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from refresh_pipeline.market.adjustments import Adjustment, AdjustmentKind
from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, PRICE_COLUMNS, TIME_UNIT, Candles, Malformed, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request
from refresh_pipeline.sources.concurrency import in_background, put_failures, side_by_side
from refresh_pipeline.sources.http_client import (
    AccessDenied,
    BaseUrl,
    Client,
    Put,
    Rate,
    RateLimited,
    by_status,
    served_at,
)
from refresh_pipeline.sources.http_source import HttpSource, SourceOptions, venue_at
from refresh_pipeline.sources.rows import json_body, malformed, number, unexpected

# What may stand in braces, and for instants behind a colon.
NAMES = ("symbol", "base", "quote", "timeframe", "rows", "since", "until")
INSTANTS = ("since", "until")
FORMATS = ("s", "ms", "us", "iso", "date")
VARIABLE = re.compile(r"\$([A-Z][A-Z0-9_]*)")
TOKEN_NAME = re.compile("key|token|secret|pass|auth|sign", re.IGNORECASE)
NAME = re.compile(r"[\w.:-]{1,40}")
# Microseconds in each unit of time.
UNITS = {"s": 1_000_000, "ms": 1000, "us": 1}
LARGEST = 1_000_000
# A split or dividend that the row of a candle tells of: the candle's number, the kind, the value.
Told = tuple[int, AdjustmentKind, float]
Answer = tuple[Candles, Sequence[Adjustment]]
# The name of an API whose YAML gives it none.
UNNAMED = "http"


def _template(text: str) -> str:
    """A text with placeholders that there are."""
    try:
        parts = [(name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{error}; allowed: placeholders such as {{symbol}}") from None
    for name, spec in parts:
        wanted = FORMATS if name in INSTANTS else ("",)
        if name not in NAMES or spec not in wanted:
            times = ", ".join(f"{{since:{each}}}" for each in FORMATS)
            raise ValueError(f"allowed in braces: {', '.join(NAMES[:5])}; since and until as in {times}")
    return text


def _timeframes(value: object) -> object:
    if not isinstance(value, Mapping) or not value:
        raise ValueError('allowed: a mapping from a timeframe to what the API calls it, for instance {m1: "1min"}')
    return {Timeframe.parse(str(name)): str(called) for name, called in value.items()}


def _steps(value: object) -> object:
    return [part for part in value.split(".") if part] if isinstance(value, str) else value


def _short_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("allowed: letters, digits and . : - _, at most 40")
    return name


Template = Annotated[str, AfterValidator(_template)]
# A dotted path of names, or a list of them; a row's field may be a position as well.
Steps = Annotated[tuple[str, ...], BeforeValidator(_steps)]
Place = int | Steps


class Fields(BaseModel):
    """Where a candle's parts lie within its row: names, dotted names or positions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: Place
    open: Place
    high: Place
    low: Place
    close: Place
    volume: Place | None = None
    # New shares for an old one, and the dividend for a share, in the row of the first session without it.
    split: Place | None = None
    dividend: Place | None = None


class HttpOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl
    # Whether a token may go to another machine without encryption.
    insecure_http: bool = False
    path: Template
    params: Mapping[str, Template] = Field(default_factory=dict)
    headers: Mapping[str, str] = Field(default_factory=dict)
    # The name beside each candle.
    name: Annotated[str, AfterValidator(_short_name)] = UNNAMED
    timeframes: Annotated[Mapping[Timeframe, str], BeforeValidator(_timeframes)]
    # The way to the candles in the answer; nothing where the answer is the list.
    candles: Annotated[tuple[Template, ...], BeforeValidator(_steps)] = ()
    fields: Fields
    # A date is the trading day of the market's calendar, whatever time is written behind it.
    time: Literal["s", "ms", "us", "iso", "date"]
    time_of: Literal["open", "close"] = "open"
    # What the prices follow already.
    adjustment: Literal["raw", "split", "dividend", "all"] = "raw"
    # How many candles an answer holds; without it one question has to do.
    rows: int | None = Field(default=None, ge=1)
    rate: Rate = Rate(requests=60, seconds=60)
    # Words in an answer without candles, whatever its status.
    throttled_words: tuple[str, ...] = ()
    no_data_words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _dates_are_of_days(self) -> "HttpOptions":
        short = [each.value for each in self.timeframes if each.is_intraday]
        if self.time == "date" and short:
            raise ValueError(f"time: date has no time of day for {', '.join(short)}; allowed: D1, W1, MN1")
        return self


@dataclass(frozen=True, slots=True)
class _Moment:
    """An instant that a template may want in any format."""

    at: np.datetime64

    def __format__(self, spec: str) -> str:
        if spec in UNITS:
            return str(int(self.at.astype(TIME_UNIT).astype(np.int64)) // UNITS[spec])
        return str(self.at.astype("datetime64[D]" if spec == "date" else "datetime64[s]"))


class JsonApiSource(HttpSource[HttpOptions]):
    """Candles of an API that a market's YAML describes."""

    options_model = HttpOptions

    def _prepare(self) -> None:
        """See HttpSource; the YAML gives the name and the timeframes."""
        self.kind = self._options.name
        self.native_timeframes = tuple(self._options.timeframes)

    @property
    def venue(self) -> str:
        """See HttpSource; without a name of its own, an API is known by its domain."""
        return self.kind if self.kind != UNNAMED else f"{UNNAMED} {_domain(self._options.base_url)}"

    def _default_symbol(self, instrument: str) -> str:
        return instrument

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source; an API that tells the time in its answers is believed rather than this machine's clock."""
        return in_background(partial(self._produce, requests, now))

    async def _produce(self, requests: Sequence[Request], now: datetime, put: Put) -> None:
        options = self._options
        try:
            keys = self._keys()
        except PermanentError as error:
            await put_failures(requests, error, put)
            return
        limit = self._limit(venue_at(self.kind, options.base_url), options.rate.requests, options.rate.seconds)
        headers = {name: _revealed(text, keys) for name, text in options.headers.items()}
        async with self._client(options.base_url, limit, headers, secrets=self._secret_params(keys)) as client:
            session = _FetchSession(self._market, options, client, keys, instant(now))
            await side_by_side(requests, session.chunks, put)

    def _secret_params(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """The keys, and what the YAML itself says in a param that is called like one."""
        params = self._options.params.items()
        return (*keys.values(), *(text for name, text in params if TOKEN_NAME.search(name) and "{" not in text))

    def _keys(self) -> dict[str, str]:
        """The values of the settings that headers and params name."""
        texts = [*self._options.headers.values(), *self._options.params.values()]
        names = dict.fromkeys(name for text in texts for name in VARIABLE.findall(text))
        keys = {name: self._secrets(name) or "" for name in names}
        if missing := [name for name, key in keys.items() if not key]:
            raise PermanentError(f"{missing[0]} is not set; put the key for {self._options.base_url} there")
        return keys


def _domain(url: str) -> str:
    """The part of a host's name that all hosts of one owner share; an address is its owner's alone."""
    host = httpx.URL(url).host
    labels = host.split(".")
    if ":" in host or labels[-1].isdigit():
        return host
    # Below co.uk and the like, a name has three parts.
    shared = 3 if len(labels[-1]) == 2 and len(labels) > 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-shared:])


@dataclass(frozen=True, slots=True)
class _FetchSession:
    """The requests of one fetch: the client, the keys and the time that they share."""

    market: Market
    options: HttpOptions
    client: Client
    # The values of settings by their names.
    keys: Mapping[str, str]
    now: np.datetime64

    async def chunks(self, request: Request) -> AsyncGenerator[Fetched, None]:
        """A chunk per window, oldest first."""
        until = min(request.until, self.now)
        windows = _windows(request.series.timeframe, request.since, until, self.options.rows)
        for since, end in windows:
            started = time.monotonic()
            found, adjustments = await self._window(request.series, since, end)
            candles, last = found.between(since, end).sorted(), bool(end == until)
            seconds = time.monotonic() - started
            yield Fetched(request.series, candles, last=last, seconds=seconds, adjustments=adjustments)
        if not windows:
            yield Fetched(request.series, Candles.none())

    async def _window(self, series: Series, since: np.datetime64, until: np.datetime64) -> Answer:
        values = self._values(series, since, until)
        quoted = {name: quote(values[name], safe=":") for name in ("symbol", "base", "quote")}
        path = self.options.path.format(**{**values, **quoted})
        # Revealed last: a key with braces is no template.
        params = {name: _revealed(text.format(**values), self.keys) for name, text in self.options.params.items()}
        steps = [step.format(**values) for step in self.options.candles]
        return await self.client.get(path, params, 1, partial(self._read, series, steps))

    def _values(self, series: Series, since: np.datetime64, until: np.datetime64) -> dict[str, Any]:
        base, _, quoted = series.instrument.partition("/")
        called = self.options.timeframes.get(series.timeframe)
        if called is None:
            raise PermanentError(f"no {series.timeframe} here; the YAML has {', '.join(self.options.timeframes)}")
        return {
            "symbol": self.market.symbol(series.instrument, str),
            "base": base,
            "quote": quoted,
            "timeframe": called,
            "rows": min(int((until - since) / length_of(series.timeframe)) + 2, self.options.rows or LARGEST),
            "since": _Moment(since),
            "until": _Moment(until),
        }

    def _read(self, series: Series, steps: Sequence[str], response: httpx.Response) -> Answer:
        rows, calendar = _rows(self._found(steps, response)), self.market.calendar_of(series.instrument)
        late = length_of(series.timeframe) if self.options.time_of == "close" else np.timedelta64(0, "us")
        candles, told = _read_rows(rows, self.options, int(late.astype(np.int64)))
        if self.options.time == "date":
            candles = replace(candles, open_time=calendar.bars_of_days(series.timeframe, candles.open_time))
        server = served_at(response)
        now = min(self.now, instant(server)) if server else self.now
        # A week's row does not say on which of its days.
        is_of_day = series.timeframe <= Timeframe.D1
        sessions = calendar.floor(Timeframe.D1, candles.open_time)
        adjustments = [
            Adjustment(series.instrument, sessions[row], kind, value, self.options.adjustment in {kind.value, "all"})
            for row, kind, value in (told if is_of_day else ())
        ]
        return candles.where(calendar.closes(series.timeframe, candles.open_time) <= now), adjustments

    def _found(self, steps: Sequence[str], response: httpx.Response) -> Any:
        """What lies where the candles should.

        Raises:
            SourceError: nothing does, or the answer is not good.
        """
        body, _ = json_body(response)
        found = _at(body, steps) if response.is_success else None
        if isinstance(found, list | dict) and (found or not self._says(response, self.options.throttled_words)):
            return found
        if self._says(response, self.options.no_data_words):
            return []
        text = f"HTTP {response.status_code}: {excerpt(response.text)}"
        if self._says(response, self.options.throttled_words):
            raise RateLimited(text)
        if response.status_code in (401, 403):
            raise AccessDenied(f"{text}; is the key right, and may it ask for this?")
        if error := by_status(response):
            raise error
        raise unexpected(response, f"candles at {'.'.join(steps) or 'the top'}")

    @staticmethod
    def _says(response: httpx.Response, words: Sequence[str]) -> bool:
        text = response.text.lower()
        return any(each.lower() in text for each in words)


def _revealed(text: str, keys: Mapping[str, str]) -> str:
    """A text with the values of the settings that it names; other words with a dollar sign stay.

    >>> _revealed("Bearer $API_KEY for $5", {"API_KEY": "k{1}"})
    'Bearer k{1} for $5'
    """
    return VARIABLE.sub(lambda match: keys.get(match[1], match[0]), text)


def _windows(
    timeframe: Timeframe, since: np.datetime64, until: np.datetime64, rows: int | None
) -> list[tuple[np.datetime64, np.datetime64]]:
    """The stretches to ask for, one after the other."""
    if not since < until:
        return []
    if rows is None:
        return [(since, until)]
    # One less than an answer holds: some APIs count the candle at the end, which is not wanted, among them.
    starts = np.arange(since, until, max(rows - 1, 1) * length_of(timeframe), dtype=TIME_UNIT)
    return list(zip(starts, [*starts[1:], until], strict=True))


def _at(body: Any, place: Sequence[str] | int) -> Any:
    """What lies at a place of a JSON value; None where nothing does."""
    for step in (place,) if isinstance(place, int) else place:
        if isinstance(body, dict) and isinstance(step, str):
            body = body.get(step)
        elif isinstance(body, list) and str(step).isdigit() and int(step) < len(body):
            body = body[int(step)]
        else:
            return None
    return body


def _rows(found: Any) -> list[Any]:
    """Rows as they are, or made from columns: a mapping of lists."""
    if isinstance(found, list):
        return found
    columns = {name: values for name, values in found.items() if isinstance(values, list)}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise PermanentError(f"expected columns of one length, received {sorted(lengths)}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read_rows(rows: Sequence[Any], options: HttpOptions, late: int) -> tuple[Candles, list[Told]]:
    """Rows as candles, those without a time set aside; times are so many microseconds after the bar's opening.

    Besides, the splits and dividends that rows tell of, with the number of their candle.
    """
    times: list[int] = []
    good: list[list[float]] = []
    rejected: list[Malformed] = []
    told: list[Told] = []
    places = [getattr(options.fields, name) for name in CANDLE_COLUMNS]
    for row in rows:
        stamp = _microseconds(_at(row, options.fields.time), options.time)
        if stamp is None:
            rejected.append(malformed(row, f"no time in {options.time} at fields.time"))
        else:
            told += [(len(times), kind, value) for kind, value in _told(row, options.fields)]
            times.append(stamp - late)
            good.append([np.nan if place is None else number(_at(row, place)) for place in places])
    columns = np.array(good, dtype=np.float64).reshape(len(good), len(CANDLE_COLUMNS)).T
    opens = np.array(times, dtype=np.int64).astype(TIME_UNIT)
    if rows and np.isnan(columns[: len(PRICE_COLUMNS)]).all():
        raise PermanentError(f"no candle can be read with these fields: {excerpt(json.dumps(rows[0]))}")
    return Candles(opens, dict(zip(CANDLE_COLUMNS, columns, strict=True)), tuple(rejected)), told


def _told(row: Any, fields: Fields) -> Iterator[tuple[AdjustmentKind, float]]:
    """The split and the dividend of a row; a split of one for one, and a dividend of nothing, are none."""
    for kind, place, none in (
        (AdjustmentKind.split, fields.split, 1.0),
        (AdjustmentKind.dividend, fields.dividend, 0.0),
    ):
        value = np.nan if place is None else number(_at(row, place))
        if np.isfinite(value) and value > 0 and value != none:
            yield kind, value


def _microseconds(value: Any, unit: str) -> int | None:
    try:
        if unit == "date":
            return int(np.datetime64(value[:10], "D").astype(TIME_UNIT).astype(np.int64))
        if unit == "iso":
            moment = datetime.fromisoformat(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return int(instant(moment).astype(np.int64))
        stamp = round(number(value) * UNITS[unit])
    except (TypeError, ValueError, OverflowError):
        return None
    # Within what a time can say.
    return stamp if 0 <= stamp < 2**60 else None
