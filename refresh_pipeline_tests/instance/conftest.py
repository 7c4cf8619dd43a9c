"""A Dagster instance on which wide runs have been, for tests that only look at what they left behind."""

from collections.abc import Iterator

import dagster as dg
import pytest

from refresh_pipeline_tests.instance.wide import FAILING, instance_in, job_of, run_wide


@pytest.fixture(scope="package")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Two wide runs, in each of which two of 487 partitions failed, on the batching event log; to be read only."""
    with instance_in(tmp_path_factory.mktemp("dagster")) as made:
        for _ in range(2):
            assert run_wide(made, job_of(FAILING)).success
        yield made
