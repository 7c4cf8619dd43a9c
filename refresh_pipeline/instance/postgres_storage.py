"""Dagster's storage in PostgreSQL, as dagster-cluster.yaml names it.

The shipped class writes events in batches too, but only with two variables set. Whoever opens this storage has them.
"""

from collections.abc import Mapping
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config

from refresh_pipeline.settings import set_dagster_variables


class PostgresStorage(DagsterPostgresStorage):
    """The shipped storage, for wide runs: 3.1 s instead of 14.5 s for 487 series and three assets."""

    def __init__(self, postgres_url: str, should_autocreate_tables: bool = True, **others: Any) -> None:
        # Every process that opens it (web server, daemon, run, CLI) gets the variables that batching needs.
        set_dagster_variables()
        super().__init__(postgres_url, should_autocreate_tables, **others)

    # The shipped method returns the base class, whatever class it is called on.
    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PostgresStorage":
        """Called by Dagster with the settings of dagster-cluster.yaml."""
        return cls(
            pg_url_from_config(config_value),  # pyright: ignore[reportArgumentType]
            config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),  # pyright: ignore[reportArgumentType]
        )
