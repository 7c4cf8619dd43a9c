"""`refresh worker`: what it wants before it starts; its work is in instance/test_celery_launcher.py."""

from pathlib import Path

import pytest

from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import command

HOME = Path("data") / "dagster"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path):
    pytest.importorskip("dagster_celery", reason="needs the extra cluster: pip install '.[cluster]'")
    with inside(tmp_path):
        yield


def test_a_dagster_of_one_machine_has_no_runs_for_workers():
    result = command("worker")
    assert result.exit_code == 2
    assert "wanted the run launcher ClusterRunLauncher" in " ".join(result.output.split())
    assert "copy dagster-cluster.yaml" in " ".join(result.output.split())


@pytest.mark.parametrize("missing", ["REFRESH_POSTGRES_URL", "REFRESH_REDIS_URL"])
def test_an_address_that_is_not_set_is_named(missing: str):
    HOME.mkdir(parents=True)
    (HOME / "dagster.yaml").write_text(shipped("dagster-cluster.yaml").read_text())
    addresses = {"REFRESH_POSTGRES_URL": "postgresql://u:secret@h/d", "REFRESH_REDIS_URL": "redis://:secret@h:1/0"}
    Path(".env").write_text("".join(f"{name}={url}\n" for name, url in addresses.items() if name != missing))
    result = command("worker")
    assert result.exit_code == 2
    assert f"{missing} is not set" in result.output
    assert "secret" not in result.output


def test_a_queue_has_a_name():
    assert command("worker", "--queue", " ,").exit_code == 2
