"""The resources as deployed: warehouse, venues, export files, destination, run options.

How each resource works is in its own package; which one is used, and where it is, is decided here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from refresh_pipeline.destinations import Destination
from refresh_pipeline.destinations.registry import open_destination, open_redis
from refresh_pipeline.market.destination_spec import FileSpec, RedisSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.operations.missing_warehouse import why_missing
from refresh_pipeline.orchestration.run_options import run_options_resources
from refresh_pipeline.pipeline.uploads_off import default_folder
from refresh_pipeline.settings import Settings, credentials, load_settings, secret
from refresh_pipeline.sources import Source
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import RedisDestination


@dataclass(frozen=True)
class Venues:
    """Opens the source of a market's candles."""

    limits_dir: Path
    # Where live runs write their doors; without it they push to nobody.
    live_dir: Path | None = None

    def open(self, market: Market) -> Source:
        """The market's source; credentials stay in the environment until a run needs them."""
        return open_source(market, self.limits_dir, secret)


@dataclass(frozen=True)
class Exports:
    """The folder of export files, and the readers' copy of the warehouse."""

    root: Path
    snapshot: Path | None = None


@dataclass(frozen=True)
class Uploads:
    """Opens destinations of export files and candles; credentials stay in the environment until a run needs them."""

    default_folder: Path

    def open(self, spec: FileSpec) -> Destination | None:
        """The destination for files that a market's YAML describes; the settings say where `uploads` go.

        None for uploads that are off.

        Raises:
            ValueError: the upload URL is of no known kind, credentials are incomplete, or a package is missing.
        """
        settings = load_settings()
        return open_destination(
            spec,
            credentials(settings),
            upload_url=settings.upload_url,
            default_folder=self.default_folder,
        )

    def open_redis(self, spec: RedisSpec) -> "RedisDestination":
        """The Redis server that a market's YAML describes.

        Raises:
            ValueError: a package is missing.
        """
        return open_redis(spec, credentials(load_settings()))


# The types of the parameters of assets, checks and sensors. A run config cannot change these resources.
WarehouseParam = dg.ResourceParam[Warehouse]
VenuesParam = dg.ResourceParam[Venues]
ExportsParam = dg.ResourceParam[Exports]
UploadsParam = dg.ResourceParam[Uploads]


def resources(settings: Settings) -> dict[str, dg.ResourceDefinition]:
    """Every resource by its key; a run config can only set the run's options."""
    return {
        "warehouse": warehouse_resource(settings),
        "venues": _without_config(lambda: Venues(settings.limits_dir, settings.live_dir)),
        "files": _without_config(lambda: Exports(settings.exports_dir, settings.snapshot)),
        "destination": _without_config(lambda: uploads_of(settings)),
        # No value passes between assets. Dagster's own takes a folder from any run config.
        "io_manager": dg.IOManagerDefinition(lambda _: dg.InMemoryIOManager(), config_schema={}),
        **run_options_resources(),
    }


def warehouse_resource(settings: Settings) -> dg.ResourceDefinition:
    """The warehouse of these settings, a new object for each run: sensors in several threads must not share one."""
    return _without_config(lambda: Warehouse(settings.warehouse, why_missing=partial(why_missing, settings)))


def uploads_of(settings: Settings) -> Uploads:
    """The resource that opens destinations, with its default folder."""
    return Uploads(default_folder(settings))


def _without_config(make: Callable[[], object]) -> dg.ResourceDefinition:
    # An empty schema refuses every key of a run config; without a schema Dagster takes any and ignores it.
    return dg.ResourceDefinition(lambda _: make(), config_schema={})
