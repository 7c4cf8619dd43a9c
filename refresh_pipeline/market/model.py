"""A market as its YAML describes it: instruments, timeframes, calendar, source. Reading files is settings' part."""

import csv
import difflib
import io
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from refresh_pipeline.market.calendar import CALENDARS, Calendar
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

# What Dagster's multi-partition keys cannot hold, and what would make a file name or an SQL schema another one.
FORBIDDEN_IN_INSTRUMENTS = re.compile(r"[|,\[\]\s\\]|\.\.")
MARKET_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
DURATION = re.compile(r"(\d+)\s*(m|h|d|w|y)")
DURATION_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}


class MarketError(ValueError):
    """A market's description is wrong; the message names file, key, what was found and what is allowed."""


class UnknownInstrument(ValueError):
    """A name that no instrument of the market has."""


def parse_duration(value: object) -> timedelta:
    """A stretch of time as people write it.

    >>> parse_duration("30d"), parse_duration("2y")
    (datetime.timedelta(days=30), datetime.timedelta(days=730))
    """
    if isinstance(value, timedelta):
        return value
    match = DURATION.fullmatch(str(value).strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("allowed: a whole number and m, h, d, w or y, for instance 30d")
    return int(match[1]) * DURATION_UNITS[match[2]]


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Instrument(BaseModel):
    """What may be said of one instrument beyond its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    symbol: str | None = None
    asset_class: str | None = Field(default=None, alias="class")
    ids: Mapping[str, str | int] = Field(default_factory=dict)


class SourceSettings(BaseModel):
    """Which source, and its own options, which that source checks."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the kind."""
        return dict(self.model_extra or {})


class Market(BaseModel):
    """A named set of instruments from one source with one trading calendar."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: SourceSettings
    calendar_name: str = Field(alias="calendar")
    instruments: Mapping[str, Instrument]
    timeframes: tuple[Timeframe, ...]
    history: Mapping[Timeframe, Duration]
    # How many of the newest stored candles each refresh reads again, to see late corrections.
    reread: int = Field(default=10, ge=1, le=1000)
    owners: tuple[str, ...] = ("team:market-data",)

    @field_validator("name")
    @classmethod
    def _name_is_a_schema(cls, name: str) -> str:
        if not MARKET_NAME.fullmatch(name):
            raise ValueError("allowed: lower-case letters, digits and _, at most 40, beginning with a letter")
        return name

    @field_validator("calendar_name")
    @classmethod
    def _calendar_exists(cls, name: str) -> str:
        if name not in CALENDARS:
            raise ValueError(f"allowed: {', '.join(CALENDARS)}")
        return name

    @field_validator("instruments", mode="before")
    @classmethod
    def _list_or_mapping(cls, value: object) -> object:
        if isinstance(value, Mapping):
            named = {str(name): details or {} for name, details in value.items()}
            return _nonempty(named, "instruments")
        if not isinstance(value, list):
            raise ValueError("allowed: a list of names, or a mapping from name to its details")
        names = [_instrument_name(name) for name in value]
        return _nonempty({name: {} for name in _without_repeats(names)}, "instruments")

    @field_validator("instruments")
    @classmethod
    def _names_are_distinct(cls, instruments: Mapping[str, Instrument]) -> Mapping[str, Instrument]:
        seen: dict[str, str] = {}
        for name in instruments:
            _instrument_name(name)
            if twin := seen.get(normalized(name)):
                raise ValueError(f"{twin!r} and {name!r} cannot be told apart")
            seen[normalized(name)] = name
        return instruments

    @field_validator("timeframes", mode="before")
    @classmethod
    def _short_to_long(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError(f"allowed: a list of {', '.join(Timeframe)}")
        parsed = [Timeframe.parse(str(name)) for name in value]
        return tuple(sorted(_nonempty(_without_repeats(parsed), "timeframes")))

    @model_validator(mode="before")
    @classmethod
    def _one_history_each(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "timeframes" not in data:
            return data
        history = data.get("history")
        if not isinstance(history, Mapping) and history is not None:
            try:
                names = [Timeframe.parse(str(name)) for name in data["timeframes"]]
            except (TypeError, ValueError):
                return data | {"history": {}}
            return data | {"history": dict.fromkeys(names, history)}
        if isinstance(history, Mapping):
            return data | {"history": {Timeframe.parse(str(name)): value for name, value in history.items()}}
        return data

    @model_validator(mode="after")
    def _history_is_complete(self) -> "Market":
        missing = [timeframe.value for timeframe in self.timeframes if timeframe not in self.history]
        if missing:
            raise ValueError(f"history says nothing of {', '.join(missing)}")
        return self

    @cached_property
    def calendar(self) -> Calendar:
        """The market's trading calendar."""
        return CALENDARS[self.calendar_name]

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """Every instrument on every timeframe, the most important instrument first, short timeframes first."""
        return tuple(Series(name, timeframe) for timeframe in self.timeframes for name in self.instruments)

    @cached_property
    def _instruments_by_normalized_name(self) -> dict[str, str]:
        return {normalized(name): name for name in self.instruments}

    def instrument(self, text: str) -> str:
        """The canonical name of the instrument somebody meant.

        Raises:
            UnknownInstrument: no instrument of this market is called so; the message names the nearest.
        """
        found = self._instruments_by_normalized_name.get(normalized(text))
        if found is None:
            raise UnknownInstrument(
                f"market {self.name!r} has no instrument {text!r}" + _nearest(text, list(self.instruments))
            )
        return found

    def timeframe(self, text: str) -> Timeframe:
        """The timeframe of this market that somebody meant.

        Raises:
            UnknownTimeframe: there is no such timeframe.
            ValueError: this market does not have it.
        """
        timeframe = Timeframe.parse(text)
        if timeframe not in self.timeframes:
            raise ValueError(
                f"market {self.name!r} has no timeframe {timeframe.value} (it has {', '.join(self.timeframes)})"
            )
        return timeframe

    def symbol(self, instrument: str, default: Callable[[str], str]) -> str:
        """What the venue calls an instrument: as the YAML says, or as the venue's rule makes it."""
        return self.instruments[instrument].symbol or default(instrument)


def normalized(name: str) -> str:
    """An instrument's name without what people write differently.

    >>> {normalized(name) for name in ("EUR/USD", "eur-usd", "EURUSD", "eur_usd", "EUR%2FUSD")}
    {'EURUSD'}
    """
    return re.sub(r"[/\-_:]", "", name.strip().upper().replace("%2F", "/"))


def parse_market(text: str, file: str, read_universe: Callable[[str], str] | None = None) -> Market:
    """A market from its YAML.

    Args:
        text: the YAML.
        file: where it came from, for messages.
        read_universe: gives the text of the CSV that `universe:` names; the first column is the instrument, further
            columns `symbol`, `class` and ids.

    Raises:
        MarketError: with one line per fault, each naming file, key, what was found and what is allowed.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MarketError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise MarketError(f"{file}: found {_shown(data)}, allowed: a mapping with {', '.join(_keys_of(Market))}")
    if "universe" in data and "instruments" not in data and read_universe is not None:
        data["instruments"] = _universe(read_universe(str(data.pop("universe"))))
    try:
        return Market.model_validate(data)
    except ValidationError as error:
        raise MarketError("\n".join(_explained(file, fault) for fault in error.errors())) from error


def _universe(text: str) -> dict[str, dict[str, Any]]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row and any(cell.strip() for cell in row)]
    header, body = [cell.strip().lower() for cell in rows[0]], rows[1:]
    own = {"symbol", "class"}
    universe: dict[str, dict[str, Any]] = {}
    for row in body:
        named = dict(zip(header[1:], (cell.strip() for cell in row[1:]), strict=False))
        details: dict[str, Any] = {key: value for key, value in named.items() if key in own and value}
        ids = {key: value for key, value in named.items() if key not in own and value}
        universe[row[0].strip()] = details | ({"ids": ids} if ids else {})
    return universe


def _explained(file: str, fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "market"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        allowed = _keys_of(Market) if len(fault["loc"]) == 1 else _keys_of(Instrument)
        message = f"unknown key{_nearest(key.split('.')[-1], allowed)}"
    if fault["type"] == "missing":
        return f"{file}: {key}: missing; allowed keys: {', '.join(_keys_of(Market))}"
    return f"{file}: {key}: found {_shown(fault['input'])}; {message}"


def _keys_of(model: type[BaseModel]) -> list[str]:
    keys = [field.alias or name for name, field in model.model_fields.items()]
    return [*keys, "universe"] if model is Market else keys


def _nearest(text: str, names: list[str]) -> str:
    by_normalized = {normalized(name): name for name in names}
    near = difflib.get_close_matches(normalized(text), list(by_normalized), n=1, cutoff=0.6)
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    hint = f"; did you mean {by_normalized[near[0]]!r}?" if near else ""
    return f"{hint} (allowed: {shown})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _instrument_name(value: object) -> str:
    # YAML reads NO, ON and bare numbers as something else than text; say so instead of guessing.
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text: put the instrument's name in quotes")
    if not value.strip() or FORBIDDEN_IN_INSTRUMENTS.search(value):
        raise ValueError(f"{value!r} is no instrument name: no spaces, commas, brackets, bars or backslashes")
    return value


def _without_repeats(values: list[Any]) -> list[Any]:
    if repeated := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(repeated)} named more than once")
    return values


def _nonempty(values: Any, what: str) -> Any:
    if not values:
        raise ValueError(f"allowed: at least one of the {what}")
    return values
