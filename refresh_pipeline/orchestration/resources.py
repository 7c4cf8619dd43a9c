"""The resources as deployed: warehouse, venues, export files, destination, run options.

How each resource works is in its own package; which one is used, and where it is, is decided here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from refresh_pipeline.destinations import Destination
from refresh_pipeline.destinations.registry import open_destination, open_redis
from refresh_pipeline.market.destination_spec import FileSpec, RedisSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.run_options import run_options_resources
from refresh_pipeline.settings import Settings, credentials, load_settings, secret
from refresh_pipeline.sources import Source
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import RedisDestination


# The type of the parameter `warehouse` of assets, checks and sensors. It has no field that a run config could change.
WarehouseParam = dg.ResourceParam[Warehouse]


def warehouse_resource(settings: Settings) -> dg.ResourceDefinition:
    """The warehouse of these settings, a new object for each run: sensors in several threads must not share one."""
    return dg.ResourceDefinition(lambda _: Warehouse(settings.database))


class Venues(dg.ConfigurableResource):
    """Opens the source of a market's candles."""

    limits_dir: str

    def open(self, market: Market) -> Source:
        """The market's source; credentials stay in the environment until a run needs them."""
        return open_source(market, Path(self.limits_dir), secret)


class Exports(dg.ConfigurableResource):
    """The folder of export files."""

    directory: str

    @property
    def root(self) -> Path:
        """The folder as a path."""
        return Path(self.directory)


class Uploads(dg.ConfigurableResource):
    """Opens destinations of export files and candles; credentials stay in the environment until a run needs them."""

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
    """Every resource by its key."""
    return {
        "warehouse": warehouse_resource(settings),
        "venues": Venues(limits_dir=str(settings.limits_dir)),
        "files": Exports(directory=str(settings.exports_dir)),
        "destination": uploads_of(settings),
        **run_options_resources(),
    }


def uploads_of(settings: Settings) -> Uploads:
    """The resource that opens destinations, with its default folder."""
    return Uploads(default_folder=str(settings.data / "uploads"))
