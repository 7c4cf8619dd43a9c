"""What a market's YAML says below `destinations:`: where its files and candles go beside the folder of exports.

How each of them is reached is `refresh_pipeline.destinations`' part; secrets are never in the YAML.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from refresh_pipeline.market.export_spec import Export, Format, Layer
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# What REFRESH_UPLOAD_URL or Dropbox's credentials name; always there.
UPLOADS = "uploads"
DEFAULT_PATH = "{path}"
PLACEHOLDERS = ("path", "market", "export", "rest", "layer", "instrument", "timeframe", "format", "name")
# Of a Redis server: its URL without a password, which comes from the environment.
REDIS_URL = "redis://127.0.0.1:6379/1"


class Kind(StrEnum):
    """What a destination is."""

    folder = "folder"
    dropbox = "dropbox"
    s3 = "s3"
    redis = "redis"


# Which keys each kind has beside those of every destination for files.
OF_FILES = frozenset({"exports", "path"})
KEYS: Mapping[Kind | None, frozenset[str]] = {
    None: OF_FILES,
    Kind.folder: OF_FILES | {"directory"},
    Kind.dropbox: OF_FILES | {"root"},
    Kind.s3: OF_FILES | {"bucket", "prefix", "endpoint", "region"},
    Kind.redis: frozenset({"url", "timeframes", "days"}),
}
NEEDED = {Kind.folder: "directory", Kind.s3: "bucket"}


class DestinationSettings(BaseModel):
    """One destination; which keys it has depends on its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default=UPLOADS, exclude=True)
    kind: Kind | None = None
    # Which exports go there; all of them where none is named.
    exports: tuple[str, ...] = ()
    # What a file is called there.
    path: str = DEFAULT_PATH
    directory: str = ""
    root: str = "/refresh-pipeline"
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    url: str = REDIS_URL
    timeframes: tuple[Annotated[Timeframe, BeforeValidator(lambda value: Timeframe.parse(str(value)))], ...] = ()
    days: int = Field(default=30, ge=1, le=3660, strict=True)

    @model_validator(mode="after")
    def _keys_are_the_kinds(self) -> "DestinationSettings":
        if self.kind is None and self.name != UPLOADS:
            raise ValueError(f"nothing said of its kind; allowed: {', '.join(Kind)}")
        if self.kind is not None and self.name == UPLOADS:
            raise ValueError("what `uploads` is, REFRESH_UPLOAD_URL says; give this destination another name")
        astray = self.model_fields_set - KEYS[self.kind] - {"name", "kind"}
        if astray:
            raise ValueError(f"{self.kind or UPLOADS} has no {', '.join(sorted(astray))}")
        if (needed := NEEDED.get(self.kind) if self.kind else None) and not getattr(self, needed):
            raise ValueError(f"kind {self.kind} needs {needed}")
        if "@" in self.url:
            raise ValueError("url holds credentials, which belong into the environment: REDIS_USERNAME, REDIS_PASSWORD")
        return self

    @model_validator(mode="after")
    def _path_is_a_template(self) -> "DestinationSettings":
        found = re.findall(r"{([^{}]*)}", self.path)
        if unknown := [name for name in found if name not in PLACEHOLDERS]:
            raise ValueError(f"path has no {{{unknown[0]}}}; allowed: {', '.join(PLACEHOLDERS)}")
        if re.search(r"[{}]", re.sub(r"{[^{}]*}", "", self.path)) or ".." in self.path:
            raise ValueError("path is a template such as dist/data/{export}/{rest}, without '..'")
        return self

    @property
    def takes_files(self) -> bool:
        """Whether files go there; else candles."""
        return self.kind is not Kind.redis

    @property
    def asset(self) -> str:
        """The name of the asset that stands for what lies there."""
        return UPLOADS if self.name == UPLOADS else f"{self.name}_copies"

    def takes(self, export: str) -> bool:
        """Whether the files of an export go there."""
        return not self.exports or export in self.exports

    def path_of(self, market: str, export: Export, layer: Layer, series: Series, kind: Format) -> str:
        """What a file is called there, below the destination's root.

        >>> from refresh_pipeline.market.timeframe import Timeframe
        >>> current = Export(name="current", layout="fx_refresh")
        >>> there = DestinationSettings(path="/dist/data/{export}/{rest}")
        >>> there.path_of("fx", current, Layer.enhanced, Series("EUR/USD", Timeframe.H1), Format.csv)
        'dist/data/current/cds/EUR-USD_H1.csv'
        """
        path = export.path(market, layer, series, kind)
        values = {
            "path": path,
            "market": market,
            "export": export.name,
            "rest": path.removeprefix(f"{export.folder(market)}/"),
            "layer": layer.value,
            "instrument": series.instrument.replace("/", "-"),
            "timeframe": series.timeframe.value,
            "format": kind.value,
            "name": path.rpartition("/")[2],
        }
        return self.path.format_map(values).strip("/")


def parse_destinations(value: object) -> object:
    """The destinations below their names, `uploads` among them."""
    if not isinstance(value, Mapping):
        raise ValueError("allowed: a mapping from the name of a destination to what it is")
    named: dict[str, Any] = {UPLOADS: {"name": UPLOADS}}
    for name, said in value.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a destination; allowed: lower-case letters, digits and _")
        if isinstance(said, Mapping) and "name" in said:
            raise ValueError(f"{name}: a destination is called by its key alone; leave out name")
        named[name] = {**said, "name": name} if isinstance(said, Mapping) else said
    return named


def clash(
    there: DestinationSettings,
    market: str,
    exports: Mapping[str, Export],
    instruments: Sequence[str],
    timeframes: Sequence[Timeframe],
) -> str | None:
    """Two files that a destination would take for one, as a sentence; None where there are none."""
    # Two instruments show what a thousand would.
    series = [Series(name, timeframe) for name in instruments[:2] for timeframe in timeframes]
    seen: dict[str, str] = {}
    for export in (each for each in exports.values() if there.takes(each.name)):
        for layer in export.layers:
            for kind in export.formats:
                for one in series:
                    path = export.path(market, layer, one, kind)
                    remote = there.path_of(market, export, layer, one, kind)
                    if remote in seen:
                        return f"{seen[remote]} and {path} would both be {remote} there"
                    seen[remote] = path
    return None
