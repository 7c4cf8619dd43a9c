"""Dagster's records in a real PostgreSQL: wide runs are written in batches, and superseded runs are pruned."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster_postgres import PostgresEventLogStorage

from refresh_pipeline.instance.run_pruning import prune
from refresh_pipeline.settings import DAGSTER_VARIABLES, shipped
from refresh_pipeline_tests.instance.wide import COMPUTED, KEYS, RAW, job_of, run_wide
from refresh_pipeline_tests.postgres_server import PostgresServer

FEW = 40
EVENTS = "select count(*) from event_logs where dagster_event_type = '{}'"


@contextmanager
def cluster_instance(folder: Path, url: str) -> Iterator[dg.DagsterInstance]:
    """The instance of the shipped dagster-cluster.yaml, whatever launches its runs."""
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load(shipped("dagster-cluster.yaml").read_text())
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    os.environ |= {
        "DAGSTER_HOME": str(folder),
        "REFRESH_POSTGRES_URL": url,
        "REFRESH_REDIS_URL": "redis://127.0.0.1:1/0",
    }
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


def test_a_wide_run_is_stored_in_batches_and_a_superseded_one_is_pruned(
    tmp_path: Path, postgres: PostgresServer, url: str
) -> None:
    for name in DAGSTER_VARIABLES:
        os.environ.pop(name, None)
    with cluster_instance(tmp_path, url) as instance:
        assert type(instance.event_log_storage) is PostgresEventLogStorage
        assert {name: os.environ[name] for name in DAGSTER_VARIABLES} == DAGSTER_VARIABLES
        assert instance._is_batch_writing_enabled()
        assert all(run_wide(instance, job_of(), last=KEYS[FEW - 1]).success for _ in range(2))
        # One event an asset and run, where the shipped settings write one a partition.
        assert postgres.query(EVENTS.format("ASSET_MATERIALIZATION_PLANNED"), url) == "4"
        assert postgres.query(EVENTS.format("ASSET_MATERIALIZATION"), url) == str(2 * 2 * FEW)

        later = datetime.now(UTC) + timedelta(hours=1)
        expected = prune(instance, lambda _: timedelta(minutes=1), later, dry_run=True)
        pruned = prune(instance, lambda _: timedelta(minutes=1), later)
        assert (pruned.runs, pruned.events) == (expected.runs, expected.events)
        assert pruned.runs == 1
        assert len(instance.get_runs()) == 1
        assert postgres.query(EVENTS.format("ASSET_MATERIALIZATION"), url) == str(2 * FEW)
        assert {len(instance.get_materialized_partitions(asset)) for asset in (RAW, COMPUTED)} == {FEW}

        # An outage is over when the server is back.
        postgres.stop()
        postgres.start()
        assert len(instance.get_runs()) == 1
