"""What a market's YAML may say of its files: where they lie, how they are written, and presets of known programs."""

from collections.abc import Mapping
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from refresh_pipeline.market.candles import CANDLE_COLUMNS, QUOTE_COLUMNS

DAY_FIRST, MONTH_FIRST = "day first", "month first"
Preset = Literal["mt4", "mt5", "dukascopy", "histdata", "yfinance", "binance", "investing", "cryptodatadownload"]
# The columns of files without a header, by the program that writes them; the list as long as a row is the right one.
LAYOUTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "mt4": (("date", "time", *CANDLE_COLUMNS),),
    "mt5": (("date", "time", *CANDLE_COLUMNS, "real_volume", "spread"),),
    "dukascopy": (("open_time", *CANDLE_COLUMNS),),
    "histdata": (("open_time", *CANDLE_COLUMNS), ("date", "time", *CANDLE_COLUMNS)),
    "binance": (
        ("open_time", *CANDLE_COLUMNS, "close_time", "quote_volume", "trades", "taker_base", "taker_quote", "_"),
    ),
}
# HistData writes New York's winter time all year round.
ZONES = {"histdata": "Etc/GMT+5"}
ORDERS = {"dukascopy": DAY_FIRST, "investing": MONTH_FIRST}


def _texts(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _columns(value: object) -> object:
    """Names by position as a tuple; a mapping from our names to the file's as it stands."""
    if isinstance(value, list):
        return {"by_position": tuple(value)}
    if not isinstance(value, Mapping):
        raise ValueError("allowed: a mapping (open: Open Price) or a list of the names of all columns, in order")
    if unknown := [name for name in value if name not in ("time", *CANDLE_COLUMNS, *QUOTE_COLUMNS)]:
        raise ValueError(f"no column {unknown[0]!r}; allowed: time, {', '.join(CANDLE_COLUMNS)}, bid_ and ask_ prices")
    return {name: _texts(each) for name, each in value.items()}


class FilesOptions(BaseModel):
    """What `source:` may say of a market of files beside its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: str
    timezone: str | None = None
    preset: Preset | None = None
    # By our names, or all of a file's under `by_position`.
    columns: Annotated[Mapping[str, tuple[str, ...]], BeforeValidator(_columns)] = {}
    time: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    decimal: Literal[".", ","] | None = None
    thousands: Literal[".", ",", " ", "'"] | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    skip: int | None = Field(default=None, ge=0, le=1000)
    header: bool | None = None
    encoding: str | None = None

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("allowed: a zone of the IANA database, for instance Europe/Berlin") from error
        return name

    @field_validator("time")
    @classmethod
    def _formats(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        for text in formats:
            if text not in (DAY_FIRST, MONTH_FIRST) and "%" not in text:
                raise ValueError(f'allowed: formats such as "%d.%m.%Y %H:%M", or {DAY_FIRST}, or {MONTH_FIRST}')
        return formats

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                "".encode(name)
        except LookupError as error:
            raise ValueError("allowed: an encoding that Python knows, for instance utf-16 or cp1252") from error
        return name

    @property
    def zone(self) -> str:
        """The zone of times without an offset."""
        return self.timezone or ZONES.get(self.preset or "", "UTC")

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that `time` lists."""
        return tuple(each for each in self.time if "%" in each)

    @property
    def order(self) -> str:
        """Whether the day or the month comes first where a file leaves both open; empty if nobody says."""
        named = [each for each in self.time if "%" not in each]
        return named[0] if named else ORDERS.get(self.preset, "") if self.preset else ""

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The names of all columns of a file without a header, by position; several where the program has variants."""
        if named := self.columns.get("by_position"):
            return (named,)
        if self.preset and self.preset in LAYOUTS:
            return LAYOUTS[self.preset]
        return (("open_time", *CANDLE_COLUMNS),) if self.header is False else ()
