"""The neighbours as deployed: warehouse, venues, files, destination, and what a run was asked for.

How each of them works is in its own package; which one is used, and where it is, is decided here.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
from pydantic import Field

from refresh_pipeline.destinations import Destination
from refresh_pipeline.destinations.registry import open_destination, open_redis
from refresh_pipeline.market.candles import instant, parse_instant
from refresh_pipeline.market.destination_spec import FileSpec, RedisSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.settings import Settings, credentials, load_settings, secret
from refresh_pipeline.sources import Source
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import RedisDestination


# What an asset, a check, a sensor asks for. A run config cannot change it: it has no field.
WarehouseParam = dg.ResourceParam[Warehouse]


def warehouse_resource(settings: Settings) -> dg.ResourceDefinition:
    """The warehouse of these settings, a new object for each run: sensors of several threads must not share one."""
    return dg.ResourceDefinition(lambda _: Warehouse(settings.database))


class Asked(dg.ConfigurableResource):
    """What a run was asked for within its range of partitions; in the launchpad under resources.

    `series` are partition keys (none: all of the range), `stretches` lines of a partition key, an instant and a later
    one, for holes to fill; `since`, `until` and `now` instants in ISO 8601 (empty: as always); with `missing` only
    candles are asked for that the calendar expects and the warehouse lacks.
    """

    series: list[str] = Field(default_factory=list)
    stretches: list[str] = Field(default_factory=list)
    since: str = ""
    until: str = ""
    now: str = ""
    missing: bool = False

    @property
    def moment(self) -> datetime:
        """The instant the run goes by: the clock's, unless another was asked for."""
        return parse_instant(self.now) if self.now else datetime.now(UTC)

    @property
    def holes(self) -> dict[Series, tuple[np.datetime64, np.datetime64]]:
        """The stretches, by series."""
        parts = [line.rsplit(" ", 2) for line in self.stretches]
        return {
            Series.from_key(key): (instant(parse_instant(since)), instant(parse_instant(until)))
            for key, since, until in parts
        }

    @property
    def since_instant(self) -> datetime | None:
        """From when on candles are asked for, whatever is stored; with `missing`, those that are not."""
        return parse_instant(self.since) if self.since else None

    @property
    def until_instant(self) -> datetime | None:
        """Up to when candles are asked for."""
        return parse_instant(self.until) if self.until else None


class Venues(dg.ConfigurableResource):
    """Where candles come from."""

    limits_dir: str

    def open(self, market: Market) -> Source:
        """The market's source; its credentials stay in the environment until a run needs them."""
        return open_source(market, Path(self.limits_dir), secret)


class Exports(dg.ConfigurableResource):
    """Where export files lie."""

    directory: str

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.directory)


class Uploads(dg.ConfigurableResource):
    """Where export files and candles go; credentials stay in the environment until a run needs them."""

    default_folder: str

    def open(self, spec: FileSpec) -> Destination:
        """The destination for files that a market's YAML describes; the settings say where `uploads` go.

        Raises:
            ValueError: the upload URL is of no known kind, credentials are incomplete, or a package is missing.
        """
        settings = load_settings()
        return open_destination(
            spec,
            credentials(settings),
            upload_url=settings.upload_url,
            default_folder=Path(self.default_folder),
        )

    def open_redis(self, spec: RedisSpec) -> "RedisDestination":
        """The Redis server that a market's YAML describes.

        Raises:
            ValueError: a package is missing.
        """
        return open_redis(spec, credentials(load_settings()))


def resources(settings: Settings) -> dict[str, object]:
    """Every resource, as these settings say."""
    return {
        "warehouse": warehouse_resource(settings),
        "venues": Venues(limits_dir=str(settings.limits_dir)),
        "files": Exports(directory=str(settings.exports_dir)),
        "destination": uploads_of(settings),
        "asked": Asked.configure_at_launch(),
    }


def uploads_of(settings: Settings) -> Uploads:
    """Where export files go, as these settings say."""
    return Uploads(default_folder=str(settings.data / "uploads"))
