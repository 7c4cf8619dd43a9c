"""The section `exports:` of a market's YAML: rows, columns, formats and names of export files.

Which series are due, and how a file is written, is decided elsewhere; nothing here touches a disk.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe


class Layer(StrEnum):
    """The columns of a file beside `open_time`: of one table, or of all tables side by side."""

    candles = "candles"
    enhanced = "enhanced"
    indicators = "indicators"
    joined = "joined"


class Format(StrEnum):
    """A file format; the value is the ending of its name."""

    csv = "csv"
    parquet = "parquet"
    # A list of objects, one per candle.
    json = "json"
    # Arrow's file format, second version.
    feather = "feather"


class Compression(StrEnum):
    """The compression of a file."""

    none = "none"
    gzip = "gzip"
    zstd = "zstd"
    snappy = "snappy"
    lz4 = "lz4"


class Layout(StrEnum):
    """The names of files, folders and columns."""

    plain = "plain"
    # The broker service's before this: folders pds and cds, its column names in its order.
    fx_refresh = "fx_refresh"
    # Parquet files that any engine reads as one table: timeframe=H1/instrument=EUR%2FUSD/data.parquet.
    hive = "hive"
    # Parquet files of all instruments together, each of a stretch of time: timeframe=H1/2026-11-29.parquet.
    dataset = "dataset"


PACKS: Mapping[Format, tuple[Compression, ...]] = {
    Format.csv: (Compression.none, Compression.gzip, Compression.zstd),
    Format.json: (Compression.none, Compression.gzip, Compression.zstd),
    Format.parquet: (Compression.zstd, Compression.snappy, Compression.gzip, Compression.none),
    Format.feather: (Compression.none, Compression.zstd, Compression.lz4),
}
# Of a text file that is packed; the other formats pack within.
ENDINGS = {Compression.gzip: ".gz", Compression.zstd: ".zst"}
DEFAULT_NAME = "default"
DATASET_NAME = "dataset"
# The last word of the shape of a file of adjusted candles.
ADJUSTED_SHAPE = "adjusted"
# In place of an instrument, for a file that holds all of them.
ALL_INSTRUMENTS = "*"
# How long a stretch of a dataset's file is, as numpy writes it: some hundred rows of an instrument at most, so that a
# new candle rewrites few of them.
PERIODS: Mapping[Timeframe, str] = {
    Timeframe.m1: "h",
    Timeframe.m5: "6h",
    **dict.fromkeys([Timeframe.m15, Timeframe.m30, Timeframe.H1, Timeframe.H2, Timeframe.H3], "D"),
    **dict.fromkeys([Timeframe.H4, Timeframe.H6, Timeframe.H8, Timeframe.D1], "M"),
    **dict.fromkeys([Timeframe.W1, Timeframe.MN1], "Y"),
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
# The broker service's folders.
FX_FOLDERS = {Layer.candles: "pds", Layer.enhanced: "cds"}
FOLDERS = {*Layer, *FX_FOLDERS.values()}
# Its names where they differ from ours: a case-blind disk takes M1 and m1 for one.
FX_TIMEFRAMES = {Timeframe.m1: "mi1", Timeframe.MN1: "M1"}


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Window(BaseModel):
    """The newest part of a series that a file holds; all of it where nothing is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    last: int | None = Field(default=None, ge=1, strict=True)
    days: int | None = Field(default=None, ge=1, le=36_500, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _full_or_one_of_both(cls, value: Any) -> Any:
        if value == "full":
            return {}
        if isinstance(value, Mapping) and len(value) == 1:
            return value
        raise ValueError("allowed: full, or one of {last: 330} (candles) and {days: 2} (before the newest candle)")

    def __str__(self) -> str:
        return " ".join(f"{name} {value}" for name, value in self.model_dump(exclude_none=True).items()) or "full"


class Retention(BaseModel):
    """The older copies that are kept, and the room that all files of an export may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Good files per series, the current one included.
    newest: int = Field(default=1, ge=1, le=1000, strict=True)
    days: int | None = Field(default=None, ge=1, strict=True)
    megabytes: int | None = Field(default=None, ge=1, strict=True)


class Export(BaseModel):
    """One product of a market: the same kind of files for every series."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default=DEFAULT_NAME, exclude=True)
    layout: Layout = Layout.plain
    layers: Annotated[tuple[Layer, ...], BeforeValidator(_listed)] = ()
    formats: Annotated[tuple[Format, ...], BeforeValidator(_listed)] = ()
    compression: Compression | None = None
    window: Window = Window.model_validate("full")
    keep: Retention = Retention()
    # Candles of before a split or dividend as if after it.
    adjusted: bool = Field(default=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_layout(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        layout = value.get("layout", Layout.plain)
        if not isinstance(layout, str):
            return value
        layers = ["candles", "enhanced"] if layout == Layout.fx_refresh else ["joined"]
        layers = ["candles"] if value.get("adjusted") is True else layers
        fixed: dict[str, list[str]] = {Layout.fx_refresh.value: ["csv"]}
        fixed |= {each.value: ["parquet"] for each in (Layout.hive, Layout.dataset)}
        formats = fixed.get(str(layout), ["csv", "parquet"])
        return {"layers": layers, "formats": formats, **value}

    @model_validator(mode="after")
    def _parts_fit(self) -> "Export":
        if not self.layers or not self.formats:
            raise ValueError("allowed: at least one layer and one format")
        if self.layout is Layout.fx_refresh and not set(self.layers) <= set(FX_FOLDERS):
            raise ValueError("layout fx_refresh has the layers candles (pds) and enhanced (cds) alone")
        if self.layout is Layout.hive and self.formats != (Format.parquet,):
            raise ValueError("layout hive has the format parquet alone")
        if self.layout is Layout.dataset:
            if self.formats != (Format.parquet,):
                raise ValueError("layout dataset has the format parquet alone")
            if str(self.window) != "full" or self.keep != Retention():
                raise ValueError("layout dataset has neither window nor keep: its files are stretches of all rows")
        if self.adjusted and (self.layers != (Layer.candles,) or self.layout is Layout.fx_refresh):
            raise ValueError("adjusted has the layer candles alone, in another layout than fx_refresh")
        for kind in self.formats:
            if self.compression and self.compression not in PACKS[kind]:
                raise ValueError(f"{kind} files take compression {', '.join(PACKS[kind])}; found {self.compression}")
        return self

    def compression_of(self, kind: Format) -> Compression:
        """The compression of files of this format: the YAML's, or the default of the format."""
        return self.compression or PACKS[kind][0]

    def folder(self, market: str) -> str:
        """The folder of the files, below the folder of exports."""
        return market if self.name == DEFAULT_NAME else f"{market}/{self.name}"

    def path(self, market: str, layer: Layer, series: Series, kind: Format) -> str:
        """The name of one file, below the folder of exports.

        >>> from refresh_pipeline.market.timeframe import Timeframe
        >>> series = Series("EUR/USD", Timeframe.m1)
        >>> Export(name="current", compression="gzip").path("fx", Layer.candles, series, Format.csv)
        'fx/current/candles/EUR-USD_m1.csv.gz'
        >>> Export(name="full", layout="fx_refresh").path("fx", Layer.enhanced, series, Format.csv)
        'fx/full/cds/EUR-USD_mi1.csv'
        >>> Export(name="lake", layout="hive").path("fx", Layer.joined, series, Format.parquet)
        'fx/lake/timeframe=m1/instrument=EUR%2FUSD/data.parquet'
        """
        ending = kind.value
        if kind in (Format.csv, Format.json):
            ending += ENDINGS.get(self.compression_of(kind), "")
        return "/".join([self.folder(market), *self._folders(layer, series), f"{self._stem(series)}.{ending}"])

    def dataset_path(self, market: str, layer: Layer, timeframe: Timeframe, period: np.datetime64) -> str:
        """The name of the file of a stretch of time, below the folder of exports.

        >>> stretch = period_at(np.datetime64("2026-11-29T13:05", "us"), Timeframe.m1)
        >>> Export(name="all", layout="dataset").dataset_path("fx", Layer.joined, Timeframe.m1, stretch)
        'fx/all/timeframe=m1/2026-11-29T13.parquet'
        """
        below = [] if layer is Layer.joined else [layer.value]
        return "/".join([self.folder(market), *below, f"timeframe={timeframe.value}", f"{period}.parquet"])

    def _folders(self, layer: Layer, series: Series) -> list[str]:
        if self.layout is Layout.fx_refresh:
            return [FX_FOLDERS[layer]]
        below = [] if layer is Layer.joined else [layer.value]
        if self.layout is Layout.hive:
            below += [f"timeframe={series.timeframe.value}", f"instrument={_percent_encoded(series.instrument)}"]
        return below

    def _stem(self, series: Series) -> str:
        if self.layout is Layout.hive:
            return "data"
        if self.layout is Layout.fx_refresh and series.timeframe in FX_TIMEFRAMES:
            return f"{series.instrument.replace('/', '-')}_{FX_TIMEFRAMES[series.timeframe]}"
        return series.file_stem

    def shape(self, kind: Format) -> str:
        """The settings that decide a file's content beside its rows; a file of another shape is written anew.

        >>> Export(window={"last": 330}).shape(Format.parquet)
        'plain zstd last 330 typed'
        """
        # Files without `typed` hold flags as floats.
        words = [self.layout, self.compression_of(kind), str(self.window), "typed"]
        return " ".join([*words, ADJUSTED_SHAPE] if self.adjusted else words)


def _percent_encoded(name: str) -> str:
    """A name as one folder of a hive dataset, the way its readers decode it."""
    return re.sub(r"[^\w.-]", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)


def period_at(moment: np.datetime64, timeframe: Timeframe) -> np.datetime64:
    """The stretch of time of a dataset's file that an open time lies in, as a datetime64 of the stretch's length.

    >>> str(period_at(np.datetime64("2026-11-29T13:05", "us"), Timeframe.m5))
    '2026-11-29T12'
    """
    return moment.astype(f"datetime64[{PERIODS[timeframe]}]")


# Without `exports:` in the YAML: candles as text, and everything as one dataset.
DEFAULT_EXPORTS: Mapping[str, Export] = {
    DEFAULT_NAME: Export(layers=(Layer.candles,), formats=(Format.csv,)),
    DATASET_NAME: Export(name=DATASET_NAME, layout=Layout.dataset),
}


def parse_exports(value: object) -> object:
    """The exports below their names; one of the name `default` is there where nothing is said."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("allowed: a mapping from the name of an export to what it is made of")
    named = {}
    for name, said in value.items():
        # `name` is the key's alone.
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an export; allowed: letters, digits, - and _, at most 40")
        if name.lower() in FOLDERS:
            raise ValueError(f"{name!r} is the name of a folder within an export; call it otherwise")
        if isinstance(said, Mapping) and "name" in said:
            raise ValueError(f"{name}: an export is called by its key alone; leave out name")
        named[name] = (
            {**said, "name": name} if isinstance(said, Mapping) else ({"name": name} if said is None else said)
        )
    if twins := _told_apart_by_case(list(named)):
        raise ValueError(f"{' and '.join(twins)} are one folder on a case-blind disk; call one of them otherwise")
    return named


def _told_apart_by_case(names: Sequence[str]) -> list[str]:
    lowered = [name.lower() for name in names]
    return [name for name in names if lowered.count(name.lower()) > 1]
