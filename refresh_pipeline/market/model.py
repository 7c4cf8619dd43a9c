"""A market as its YAML describes it: instruments, timeframes, calendar, source. Reading files is settings' part."""

import csv
import difflib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from refresh_pipeline.market.calendar_spec import CalendarSpec, parse_calendar
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.destination_spec import (
    MODELS,
    UPLOADS,
    BaseSpec,
    DestinationSpec,
    FileSpec,
    RedisSpec,
    UploadsSpec,
    clash,
    parse_destinations,
)
from refresh_pipeline.market.export_spec import DEFAULT_EXPORTS, Export, Retention, Window, parse_exports
from refresh_pipeline.market.live_spec import LiveSettings, parse_live
from refresh_pipeline.market.plain_yaml import TOO_DEEP, YamlError, line_of, plain_yaml, repeated
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.signals import MarketAlerts
from refresh_pipeline.market.timeframe import Timeframe

# What Dagster's multi-partition keys cannot hold, and what would make a file name or an SQL schema another one.
FORBIDDEN_IN_INSTRUMENTS = re.compile(r"[|,\[\]\s\\]|\.\.")
# DuckDB's schemas and databases.
RESERVED_NAMES = {"information_schema", "memory", "pg_catalog", "temp", "system"}
OWNER = re.compile(r"team:[\w.-]+|[\w.%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
MARKET_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
DURATION = re.compile(r"(\d{1,9})\s*(m|h|d|w|y)")
# Beyond it a start lies before what any calendar or data set knows, and soon before what a date can say.
LONGEST = timedelta(days=100 * 365)
DURATION_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}

# No key that a YAML could have: what comes behind the first of a list of sources.
FALLBACKS_KEY = "source[1:]"

# Pydantic's kinds of faults in the words of a YAML's author.
ALLOWED = {
    "string_type": "text (in quotes, if it looks like a number)",
    "model_type": "a mapping with {keys}",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_from_float": "a whole number",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "enum": "{expected}",
}

# Intervals that divide an hour or a day; a quarter past, so that the refresh of the full hour comes first.
PUBLISH_CRONS = {
    **{timedelta(minutes=each): f"*/{each} * * * *" for each in (5, 10, 15, 20, 30)},
    **{timedelta(hours=each): f"15 */{each} * * *" for each in (1, 2, 3, 4, 6, 8, 12)},
    timedelta(days=1): "15 0 * * *",
}

# A live market's refresh compares the candles of the last hour with the venue's, and a few more.
RECONCILED_MINUTES = 65

Options = TypeVar("Options", bound=BaseModel)


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
    duration = int(match[1]) * DURATION_UNITS[match[2]] if match else timedelta(0)
    if not timedelta(0) < duration <= LONGEST:
        raise ValueError("allowed: a whole number and m, h, d, w or y, for instance 30d, up to 100y")
    return duration


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


# The classes of instruments: some calendars have sessions of their own for one, and Dhan asks for an index differently.
ASSET_CLASSES = ("crypto", "currency", "equity", "index", "metal")


class Instrument(BaseModel):
    """What may be said of one instrument beyond its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    symbol: str | None = None
    asset_class: str | None = Field(default=None, alias="class")
    ids: Mapping[str, str | int] = Field(default_factory=dict)

    @field_validator("asset_class")
    @classmethod
    def _class_exists(cls, name: str | None) -> str | None:
        if name is not None and name not in ASSET_CLASSES:
            raise ValueError(f"no such class{_nearest(name, list(ASSET_CLASSES))}")
        return name


class SourceSettings(BaseModel):
    """Which source, what it calls the instruments, and its own options, which that source checks."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    # Names of this source alone, before those that the instruments have of their own.
    symbols: Mapping[str, str] = Field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Everything but kind and symbols."""
        return dict(self.model_extra or {})


# Minutes are many, and older rows are computed as fast as they are read: 90 days of m1 of 487 series would take 76 GB.
KEPT_BY_DEFAULT = {Timeframe.m1: timedelta(days=2), Timeframe.m5: timedelta(days=10)}
FOR_EVER = "for ever"


class IndicatorSettings(BaseModel):
    """Which indicators a market has, and how long computed rows (enhanced candles too) are stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Groups, indicators, columns, or an indicator with parameters of its own (`ema: [8, 21]`); `standard` if not said.
    compute: tuple[str | dict[str, Any], ...] | None = None
    # Counted back from a series' newest candle; for ever where a timeframe is not in it. Older rows are computed when
    # they are read.
    keep: Mapping[Timeframe, timedelta] = Field(default_factory=lambda: KEPT_BY_DEFAULT)

    @field_validator("compute", mode="before")
    @classmethod
    def _is_a_list(cls, value: object) -> object:
        if not isinstance(value, list) or not all(isinstance(each, str | dict) and each for each in value):
            raise ValueError("allowed: a list of names and of mappings from an indicator to parameters (ema: [8, 21])")
        return _nonempty(value, "compute")

    @field_validator("keep", mode="before")
    @classmethod
    def _kept_by_timeframe(cls, value: object) -> object:
        given = value if isinstance(value, Mapping) else dict.fromkeys(Timeframe, value)
        lengths = {Timeframe.parse(str(name)): _kept(length) for name, length in given.items()}
        return {name: length for name, length in (KEPT_BY_DEFAULT | lengths).items() if length is not None}


def _kept(value: object) -> timedelta | None:
    return None if value == FOR_EVER else parse_duration(value)


class Market(BaseModel):
    """A named set of instruments from one source with one trading calendar."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: SourceSettings
    calendar_spec: Annotated[CalendarSpec, BeforeValidator(parse_calendar)] = Field(alias="calendar")
    instruments: Mapping[str, Instrument]
    # The CSV file that they come from, where they are not in the YAML itself.
    universe: str | None = None
    timeframes: tuple[Timeframe, ...]
    history: Mapping[Timeframe, Duration]
    # How many of the newest stored candles each refresh reads again, to see late corrections.
    reread: int = Field(default=10, ge=1, le=1000, strict=True)
    # How many times longer the schedule waits in the calendar's quiet hours; 1: no longer than otherwise.
    off_peak: float = Field(default=1.0, ge=1, le=4)
    # Whether quotes have a bid and an ask side, kept in bid_ and ask_ columns beside the mid prices.
    two_sided: bool = False
    # Whether candles have stopped coming: nothing is late then, and nothing is missing before or after what is stored.
    static: bool = Field(default=False, strict=True)
    # Who serves a series when the source fails or is behind, in this order; in the YAML `source` is a list then.
    fallbacks: tuple[SourceSettings, ...] = Field(default=(), alias=FALLBACKS_KEY)
    # How far apart, in percent, two sources may be in the same candle before a check says so.
    max_deviation_percent: float = Field(default=5.0, ge=0.0)
    indicators: IndicatorSettings = IndicatorSettings()
    owners: tuple[str, ...] = ()
    # Files, by the name of the export that they belong to.
    exports: Annotated[Mapping[str, Export], BeforeValidator(parse_exports)] = DEFAULT_EXPORTS
    # Where files and candles go, by name; `uploads` is always there.
    destinations: Annotated[Mapping[str, DestinationSpec], BeforeValidator(parse_destinations)] = {
        UPLOADS: UploadsSpec()
    }
    # How often files are written and uploaded.
    publish: Duration = timedelta(hours=2)
    # Series in one run of a tick; a tick of more asks for several runs side by side. One run where it is left out.
    chunks: int | None = Field(default=None, ge=1, strict=True)
    # Candles by stream, half a second after their close; without it refreshes alone fetch them.
    live: Annotated[LiveSettings | None, BeforeValidator(parse_live)] = None
    # Signals to send an alert on, each once.
    alerts: MarketAlerts = MarketAlerts()

    @model_validator(mode="before")
    @classmethod
    def _one_source_or_several(cls, data: Any) -> Any:
        listed = data.get("source") if isinstance(data, Mapping) else None
        if not isinstance(listed, list) or not listed:
            return data
        first, *others = listed
        return {**data, "source": first, FALLBACKS_KEY: others}

    @field_validator("name")
    @classmethod
    def _name_is_a_schema(cls, name: str) -> str:
        if not MARKET_NAME.fullmatch(name):
            raise ValueError("allowed: lower-case letters, digits and _, at most 40, beginning with a letter")
        if name in RESERVED_NAMES:
            raise ValueError("a name that DuckDB uses itself; allowed: any other name")
        return name

    @field_validator("owners")
    @classmethod
    def _owners_are_known_to_dagster(cls, owners: tuple[str, ...]) -> tuple[str, ...]:
        for owner in owners:
            if not OWNER.fullmatch(owner):
                raise ValueError(f"{owner!r} is no owner; allowed: an e-mail address, or team: and a name")
        return owners

    @field_validator("instruments", mode="before")
    @classmethod
    def _list_or_mapping(cls, value: object) -> object:
        if isinstance(value, Mapping):
            named = {instrument_name(name): {} if given is None else given for name, given in value.items()}
            return _nonempty(named, "instruments")
        if not isinstance(value, list):
            raise ValueError("allowed: a list of names, or a mapping from name to its details")
        names = [instrument_name(name) for name in value]
        return _nonempty({name: {} for name in _without_repeats(names)}, "instruments")

    @field_validator("instruments")
    @classmethod
    def _names_are_distinct(cls, instruments: Mapping[str, Instrument]) -> Mapping[str, Instrument]:
        seen: dict[str, str] = {}
        for name in instruments:
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

    @field_validator("history", mode="before")
    @classmethod
    def _one_history_each(cls, value: object, info: ValidationInfo) -> object:
        # Where the timeframes are wrong they have their own message; here only what is said of history counts.
        timeframes = info.data.get("timeframes", ())
        if not isinstance(value, Mapping):
            return dict.fromkeys(timeframes, parse_duration(value))
        names = _without_repeats([Timeframe.parse(str(name)) for name in value])
        if missing := [timeframe.value for timeframe in timeframes if timeframe not in names]:
            raise ValueError(f"nothing said of {', '.join(missing)}; allowed: one length for all, or one per timeframe")
        return dict(zip(names, value.values(), strict=True))

    @model_validator(mode="after")
    def _alerts_are_on_series(self) -> "Market":
        for alert in self.alerts.signals:
            for name in alert.instruments:
                if name not in self.instruments:
                    raise ValueError(f"alerts: {name!r} is no instrument{_nearest(name, list(self.instruments))}")
            if unknown := [name for name in alert.timeframes if name not in self.timeframes]:
                raise ValueError(f"alerts: found {unknown[0]}, allowed: {', '.join(self.timeframes)}")
        return self

    @model_validator(mode="after")
    def _symbols_are_of_instruments(self) -> "Market":
        for source in (self.source, *self.fallbacks):
            for name in source.symbols:
                if name not in self.instruments:
                    raise ValueError(
                        f"source.symbols: {name!r} is no instrument{_nearest(name, list(self.instruments))}"
                    )
        return self

    @field_validator("destinations")
    @classmethod
    def _destinations_fit(
        cls, destinations: Mapping[str, DestinationSpec], info: ValidationInfo
    ) -> Mapping[str, DestinationSpec]:
        if {"name", "exports", "instruments", "timeframes"} <= info.data.keys():
            for spec in destinations.values():
                if fault := _misfit(spec, info.data):
                    raise ValueError(f"{spec.name}: {fault}")
        return destinations

    @property
    def uploads(self) -> UploadsSpec:
        """The destination that REFRESH_UPLOAD_URL names."""
        spec = self.destinations[UPLOADS]
        return spec if isinstance(spec, UploadsSpec) else UploadsSpec()

    @field_validator("publish")
    @classmethod
    def _a_clock_can_say_it(cls, every: timedelta) -> timedelta:
        if every not in PUBLISH_CRONS:
            raise ValueError("allowed: 5m, 10m, 15m, 20m, 30m, 1h, 2h, 3h, 4h, 6h, 8h, 12h or 1d")
        return every

    @cached_property
    def calendar(self) -> Calendar:
        """The market's trading calendar."""
        return self.calendar_spec.calendar

    def calendar_of(self, instrument: str) -> Calendar:
        """The trading calendar of one instrument, whose class may have sessions of its own.

        The market's own for one that its YAML does not name: the simulation serves whatever it is asked for.
        """
        named = self.instruments.get(instrument)
        asset_class = named.asset_class if named else None
        return self.calendar.classes.get(asset_class or "", self.calendar)

    def classes_of(self, batch: Sequence[Series]) -> NDArray[np.object_] | None:
        """The asset class of each series that has other sessions than the calendar, else None; None if no series has.

        Computed columns that need sessions go by it.
        """
        names = [self.instruments.get(each.instrument, Instrument()).asset_class for each in batch]
        classes = [name if name in self.calendar.classes else None for name in names]
        return np.array(classes, dtype=object) if any(classes) else None

    def session_key(self, instrument: str) -> str:
        """The name of an instrument's calendar: the market's, and its class where that has sessions of its own."""
        asset_class = self.instruments[instrument].asset_class
        name = self.calendar_spec.name
        return f"{name}/{asset_class}" if asset_class in self.calendar.classes else name

    def by_calendar(self, series: Iterable[Series]) -> dict[tuple[Calendar, Timeframe], list[Series]]:
        """Series together with those of which the same bars are expected."""
        return self._all_by_calendar if series is self.series else self._by_calendar(series)

    @cached_property
    def _all_by_calendar(self) -> dict[tuple[Calendar, Timeframe], list[Series]]:
        return self._by_calendar(self.series)

    def _by_calendar(self, series: Iterable[Series]) -> dict[tuple[Calendar, Timeframe], list[Series]]:
        groups: dict[tuple[Calendar, Timeframe], list[Series]] = {}
        for each in series:
            groups.setdefault((self.calendar_of(each.instrument), each.timeframe), []).append(each)
        return groups

    def reread_of(self, timeframe: Timeframe) -> int:
        """How many of the newest stored candles a refresh reads again; of a live market what its streams delivered."""
        return max(self.reread, RECONCILED_MINUTES // timeframe.minutes) if self.live else self.reread

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
        own = self.source.symbols.get(instrument) or self.instruments[instrument].symbol
        return own or default(instrument)

    def for_source(self, number: int) -> "Market":
        """This market as one of its sources sees it: 0 is the preferred one, 1 the first fallback.

        What an instrument says of its `symbol` is said of the preferred source alone.
        """
        if number == 0:
            return self.model_copy(update={"fallbacks": ()})
        plain = {name: each.model_copy(update={"symbol": None}) for name, each in self.instruments.items()}
        source = self.fallbacks[number - 1]
        return self.model_copy(update={"source": source, "fallbacks": (), "instruments": plain})


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
    data = _data_of(text, file)
    if not isinstance(data, dict):
        raise MarketError(f"{file}: found {_shown(data)}, allowed: a mapping with {', '.join(_keys_of(Market))}")
    if "universe" in data:
        data["instruments"] = _universe(data, file, read_universe)
    try:
        return Market.model_validate(data)
    except ValidationError as error:
        raise MarketError("\n".join(_sentences(file, error.errors(), text))) from error
    except RecursionError:
        raise MarketError(f"{file}: {TOO_DEEP}") from None


def _data_of(text: str, file: str) -> Any:
    try:
        return plain_yaml(text)
    except YamlError as error:
        raise MarketError(f"{file}: {error}") from error


def source_options(market: Market, model: type[Options]) -> Options:
    """What a market's YAML says below `source:` besides the kind, checked against what that source knows.

    Raises:
        MarketError: with one line per fault, each naming the market, the key, what was found and what is allowed.
    """
    try:
        return model.model_validate(market.source.options)
    except ValidationError as error:
        where = f"market {market.name!r}: source"
        raise MarketError("\n".join(_explained(where, fault, model) for fault in error.errors())) from error


def _universe(data: dict[str, Any], file: str, read_universe: Callable[[str], str] | None) -> dict[str, dict[str, Any]]:
    name = data["universe"]
    if "instruments" in data or read_universe is None or not isinstance(name, str):
        raise MarketError(f"{file}: universe: found {_shown(name)}; allowed: a CSV file's name, instead of instruments")
    rows = [row for row in csv.reader(io.StringIO(read_universe(name))) if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise MarketError(f"{name}: found {len(rows)} rows; allowed: a header, and an instrument in each row below it")
    header = [cell.strip().lower() for cell in rows[0]]
    names = [row[0].strip() for row in rows[1:]]
    if doubles := repeated(names):
        raise MarketError(f"{name}: found {', '.join(doubles)} more than once; allowed: a row per instrument")
    return {instrument: _details(header, row) for instrument, row in zip(names, rows[1:], strict=True)}


def _details(header: list[str], row: list[str]) -> dict[str, Any]:
    named = {key: cell.strip() for key, cell in list(zip(header, row, strict=False))[1:] if cell.strip()}
    own = {key: named.pop(key) for key in ("symbol", "class") if key in named}
    return own | ({"ids": named} if named else {})


def _misfit(spec: BaseSpec, market: Mapping[str, Any]) -> str:
    """The reason why a destination does not fit its market; empty where it does."""
    if isinstance(spec, RedisSpec):
        unknown = [timeframe for timeframe in spec.timeframes if timeframe not in market["timeframes"]]
        return f"the market has no timeframe {unknown[0]}" if unknown else ""
    if not isinstance(spec, FileSpec):
        return ""
    if missing := [name for name in spec.exports if name not in market["exports"]]:
        return f"no export {missing[0]!r}; allowed: {', '.join(market['exports'])}"
    files = clash(spec, market["name"], market["exports"], list(market["instruments"]), market["timeframes"])
    return f"path leaves no file its own name: {files}" if files else ""


def _sentences(file: str, faults: Iterable[Any], text: str) -> list[str]:
    """A line for each fault of a market; keys that are missing beside each other share one."""
    grouped: dict[Any, Any] = {}
    for number, fault in enumerate(faults):
        parent, name = fault["loc"][:-1], fault["loc"][-1:]
        first = grouped.setdefault(parent if fault["type"] == "missing" else number, dict(fault))
        if first["loc"] != fault["loc"]:
            first["loc"] = (*parent, f"{first['loc'][-1]}, {name[0]}")
    return [_explained(file, fault, Market, text) for fault in grouped.values()]


def _explained(where: str, fault: Any, model: type[BaseModel], text: str = "") -> str:
    """A fault in words; where the YAML's text is given, with its line."""
    path = [str(part) for part in fault["loc"] if part != "[key]"]
    if path[:1] == [FALLBACKS_KEY]:
        path[:2] = ["source", str(int(path[1]) + 1)] if path[1:] else ["source"]
    # Pydantic puts the kind of a destination between its name and its keys.
    keys_path = path[:2] + path[3:] if path[:1] == ["destinations"] else path
    key = f"{where}: {'.'.join(keys_path)}" if path else where
    line = line_of(text, keys_path) if text else None
    return f"{key}: {_reason(fault, path, model)}{f' (line {line})' if line else ''}"


def _reason(fault: Any, path: list[str], model: type[BaseModel]) -> str:
    siblings = _keys_of(_model_at(model, path[:-1]))
    if fault["type"] == "missing":
        return f"missing; allowed keys: {', '.join(siblings)}"
    if fault["type"] == "extra_forbidden":
        return f"found {_shown(fault['input'])}; unknown key{_nearest(path[-1], siblings)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    keys = ", ".join(_keys_of(_model_at(model, path)))
    allowed = ALLOWED.get(fault["type"], "").format(keys=keys, **fault.get("ctx", {}))
    return f"found {_shown(fault['input'])}; {f'allowed: {allowed}' if allowed else message}"


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    if model is Market and path:
        if path[0] == "exports":
            return {"keep": Retention, "window": Window}.get(path[-1], Export)
        if path[0] == "destinations":
            return MODELS[path[2]] if len(path) > 2 else BaseSpec
        sections: dict[str, type[BaseModel]] = {"source": SourceSettings, "indicators": IndicatorSettings}
        sections["calendar"] = CalendarSpec
        return sections.get(path[0], Instrument)
    for part in path:
        kind = model.model_fields[part].annotation if part in model.model_fields else None
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else model
    return model


def _keys_of(model: type[BaseModel]) -> list[str]:
    # What is left out of a dump is no key of the YAML: an export's name stands before it.
    fields = {name: field for name, field in model.model_fields.items() if not field.exclude}
    return [field.alias or name for name, field in fields.items() if field.alias != FALLBACKS_KEY]


def _nearest(text: str, names: list[str]) -> str:
    by_normalized = {normalized(name): name for name in names}
    near = difflib.get_close_matches(normalized(text), list(by_normalized), n=1, cutoff=0.6)
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    hint = f"; did you mean {by_normalized[near[0]]!r}?" if near else ""
    return f"{hint} (allowed: {shown})"


def _shown(value: object) -> str:
    # Who writes a password into a URL must not find it in a log.
    text = re.sub(r"(?<=//)[^/\s'\"]*@", "***@", repr(value))
    text = re.sub(r"(://[^\s'\"?#]*[?#])[^\s'\"]+", r"\1***", text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def instrument_name(value: object) -> str:
    """A name that an instrument may have; raises ValueError for another one."""
    # YAML reads NO, ON and bare numbers as something else than text; say so instead of guessing.
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text; allowed: an instrument's name, in quotes if YAML reads it otherwise")
    if not normalized(value) or FORBIDDEN_IN_INSTRUMENTS.search(value):
        raise ValueError(
            f"{value!r} is no instrument name; allowed: text without spaces, commas, brackets, bars, backslashes and .."
        )
    return value


def _without_repeats(values: list[Any]) -> list[Any]:
    if doubles := repeated(values):
        raise ValueError(f"{', '.join(doubles)} named more than once; allowed: each once")
    return values


def _nonempty(values: Any, what: str) -> Any:
    if not values:
        raise ValueError(f"allowed: at least one of the {what}")
    return values
