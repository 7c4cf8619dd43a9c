"""The section `destinations:` of a market's YAML: where files and candles go beside the folder of exports.

One model per kind. A new kind is a model here and in `DestinationSpec`, a line in `destinations.registry`, and a module
of its own. Secrets are never in the YAML.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from refresh_pipeline.market.export_spec import ALL_INSTRUMENTS, Export, Format, Layer, Layout, period_at
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# The destination that REFRESH_UPLOAD_URL or Dropbox's credentials name; every market has it.
UPLOADS = "uploads"
DEFAULT_PATH = "{path}"
DROPBOX_ROOT = "/refresh-pipeline"
PLACEHOLDERS = ("path", "market", "export", "rest", "layer", "instrument", "timeframe", "format", "name")
# A Redis server's URL has no password, which comes from the environment.
REDIS_URL = "redis://127.0.0.1:6379/1"
BUCKET_SCHEMES = ("s3", "gs", "az")
BUCKET_URL = re.compile(r"(s3|gs|az)://[^/?#@\s]+(/[^?#\s]*)?")
BUCKET_URLS = "s3://bucket/folder, gs://bucket/folder or az://container/folder"


class BaseSpec(BaseModel, frozen=True):
    """The keys and facts of every destination."""

    model_config = ConfigDict(extra="forbid")

    # Shown in the web UI beside the asset.
    description: ClassVar[str] = ""
    # The end of the asset's name: what happens there.
    suffix: ClassVar[str] = "upload"
    # The package's extra that this kind needs.
    extra: ClassVar[str] = ""

    name: str = Field(default=UPLOADS, exclude=True)
    kind: str

    @property
    def asset(self) -> str:
        """The name of the asset that stands for the contents of this destination."""
        return UPLOADS if self.name == UPLOADS else f"{self.name}_{self.suffix}"

    @property
    def former_asset(self) -> str:
        """The asset's name in files before schema version 5."""
        return UPLOADS if self.name == UPLOADS else f"{self.name}_copies"


class FileSpec(BaseSpec, frozen=True):
    """A destination for export files."""

    # The exports that go there; all of them where none is named.
    exports: tuple[str, ...] = ()
    # A template of a file's path under the destination's root.
    path: str = DEFAULT_PATH

    @field_validator("path")
    @classmethod
    def _path_is_a_template(cls, path: str) -> str:
        names = re.findall(r"{([^{}]*)}", path)
        if unknown := [name for name in names if name not in PLACEHOLDERS]:
            raise ValueError(f"path has no {{{unknown[0]}}}; allowed: {', '.join(PLACEHOLDERS)}")
        if re.search(r"[{}]", re.sub(r"{[^{}]*}", "", path)) or ".." in path:
            raise ValueError("path is a template such as dist/data/{export}/{rest}, without '..'")
        return path

    def takes(self, export: str) -> bool:
        """Whether the files of an export go there."""
        return not self.exports or export in self.exports

    def path_of(self, market: str, export: Export, layer: Layer, series: Series, file_format: Format) -> str:
        """The path of a file below the destination's root.

        >>> from refresh_pipeline.market.timeframe import Timeframe
        >>> current = Export(name="current", layout="fx_refresh")
        >>> spec = FolderSpec(kind="folder", directory="share", path="/dist/data/{export}/{rest}")
        >>> spec.path_of("fx", current, Layer.enhanced, Series("EUR/USD", Timeframe.H1), Format.csv)
        'dist/data/current/cds/EUR-USD_H1.csv'
        """
        return self.place_of(
            market, export, export.path(market, layer, series, file_format), series, (layer, file_format)
        )

    def place_of(self, market: str, export: Export, path: str, series: Series, what: tuple[Layer, Format]) -> str:
        """The path below the destination's root of a file with this path below the folder of exports."""
        layer, file_format = what
        values = {
            "path": path,
            "market": market,
            "export": export.name,
            "rest": path.removeprefix(f"{export.folder(market)}/"),
            "layer": layer.value,
            "instrument": series.instrument.replace("/", "-"),
            "timeframe": series.timeframe.value,
            "format": file_format.value,
            "name": path.rpartition("/")[2],
        }
        return self.path.format_map(values).strip("/")


class UploadsSpec(FileSpec, frozen=True):
    """The destination that REFRESH_UPLOAD_URL or Dropbox's credentials name."""

    kind: Literal["uploads"] = UPLOADS

    @property
    def is_named(self) -> bool:
        """Whether the market's YAML has it, be it `{}`: its files go into a folder then where no setting names another.

        >>> UploadsSpec().is_named, UploadsSpec(kind="uploads").is_named
        (False, True)
        """
        # What is read from a YAML has its kind said; what stands in for a silent one has not.
        return "kind" in self.model_fields_set


class FolderSpec(FileSpec, frozen=True):
    """A folder of this machine, or one that is mounted here."""

    description: ClassVar[str] = "The export files in another folder."

    kind: Literal["folder"]
    directory: str = Field(min_length=1)


class DropboxSpec(FileSpec, frozen=True):
    """A folder in Dropbox."""

    description: ClassVar[str] = "The export files in Dropbox."

    kind: Literal["dropbox"]
    root: str = DROPBOX_ROOT


class ObjectStoreSpec(FileSpec, frozen=True):
    """A folder in a bucket: `url`, or the name of an S3 bucket and a prefix in it."""

    description: ClassVar[str] = "The export files in a bucket of an object store."
    extra: ClassVar[str] = "s3"

    kind: Literal["object_store", "s3"]
    url: str = ""
    bucket: str = ""
    prefix: str = ""
    # Of compatible storage; the cloud's own where it is empty.
    endpoint: str = ""
    region: str = ""
    # Whether keys may go to another machine over http://.
    insecure_http: bool = False

    @field_validator("url")
    @classmethod
    def _url_names_a_bucket(cls, url: str) -> str:
        if re.search(r"@|[?#]", url):
            raise ValueError(
                f"url holds credentials or options; allowed: {BUCKET_URLS}; keys belong in the environment"
            )
        if not BUCKET_URL.fullmatch(url):
            raise ValueError(f"allowed: {BUCKET_URLS}")
        return url

    @model_validator(mode="after")
    def _one_bucket(self) -> "ObjectStoreSpec":
        if bool(self.url) == bool(self.bucket):
            raise ValueError(f"kind {self.kind} needs bucket, or url in its place: {BUCKET_URLS}")
        if self.url and self.prefix:
            raise ValueError("prefix belongs to bucket; write the folder into url")
        if self.region and self.url and not self.url.startswith("s3://"):
            raise ValueError("region belongs to s3:// alone")
        return self


class RedisSpec(BaseSpec, frozen=True):
    """The newest candles of every series in a Redis server."""

    description: ClassVar[str] = "The newest candles of every series in Redis, the window always whole."
    suffix: ClassVar[str] = "redis"
    extra: ClassVar[str] = "redis"

    kind: Literal["redis"]
    url: str = REDIS_URL
    timeframes: tuple[Annotated[Timeframe, BeforeValidator(lambda value: Timeframe.parse(str(value)))], ...] = ()
    days: int = Field(default=30, ge=1, le=3660, strict=True)

    @field_validator("url")
    @classmethod
    def _url_holds_no_secret(cls, url: str) -> str:
        if "@" in url or "?" in url:
            raise ValueError("url holds credentials, which belong into the environment: REDIS_USERNAME, REDIS_PASSWORD")
        return url


# What a YAML may describe, told apart by `kind`; parse_destinations fills in that of `uploads`.
DestinationSpec = Annotated[
    UploadsSpec | FolderSpec | DropboxSpec | ObjectStoreSpec | RedisSpec, Field(discriminator="kind")
]
MODELS: Mapping[str, type[BaseSpec]] = {
    kind: model
    for model in get_args(get_args(DestinationSpec)[0])
    for kind in get_args(model.model_fields["kind"].annotation)
}
KINDS = tuple(kind for kind in MODELS if kind != UPLOADS)


def parse_destinations(value: object) -> object:
    """The destinations by name, `uploads` among them, as the models take them.

    Raises:
        ValueError: a name or a kind is not allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError("allowed: a mapping from the name of a destination to what it is")
    named: dict[str, Any] = {UPLOADS: UploadsSpec()}
    for name, keys in value.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a destination; allowed: lower-case letters, digits and _")
        named[name] = _with_kind(name, keys)
    return named


def _with_kind(name: str, keys: object) -> object:
    if isinstance(keys, BaseSpec):
        return keys
    if not isinstance(keys, Mapping):
        raise ValueError(f"{name}: allowed: a mapping with kind and the keys of that kind")
    if "name" in keys:
        raise ValueError(f"{name}: a destination is called by its key alone; leave out name")
    if name == UPLOADS and "kind" in keys:
        raise ValueError("what `uploads` is, REFRESH_UPLOAD_URL says; give this destination another name")
    if name == UPLOADS:
        return {**keys, "kind": UPLOADS, "name": name}
    if "kind" not in keys:
        raise ValueError(f"{name}: nothing said of its kind; allowed: {', '.join(KINDS)}")
    if keys["kind"] not in KINDS:
        raise ValueError(f"{name}.kind: found {keys['kind']!r}; allowed: {', '.join(KINDS)}")
    return {**keys, "name": name}


def clash(
    spec: FileSpec,
    market: str,
    exports: Mapping[str, Export],
    instruments: Sequence[str],
    timeframes: Sequence[Timeframe],
) -> str | None:
    """Two files that would have one path at a destination, as a sentence; None where there are none."""
    # Two instruments show what a thousand would.
    batch = [Series(name, timeframe) for name in instruments[:2] for timeframe in timeframes]
    paths: dict[str, str] = {}
    for export in (export for export in exports.values() if spec.takes(export.name)):
        for path, series, what in _files_of(market, export, batch):
            remote = spec.place_of(market, export, path, series, what)
            if remote in paths:
                return f"{paths[remote]} and {path} would both be {remote} there"
            paths[remote] = path
    return None


def _files_of(
    market: str, export: Export, batch: Sequence[Series]
) -> Iterator[tuple[str, Series, tuple[Layer, Format]]]:
    """Files as an export has them: its path, its series, its layer and format; of a dataset two stretches of time."""
    for layer in export.layers:
        for file_format in export.formats:
            if export.layout is Layout.dataset:
                for timeframe in dict.fromkeys(series.timeframe for series in batch):
                    first = period_at(np.datetime64(0, "us"), timeframe)
                    for period in (first, first + 1):
                        path = export.dataset_path(market, layer, timeframe, period)
                        yield path, Series(ALL_INSTRUMENTS, timeframe), (layer, file_format)
                continue
            for series in batch:
                yield export.path(market, layer, series, file_format), series, (layer, file_format)
