"""The command `worker`: runs of several machines, one after the other or side by side."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.options import DataDirOption, request
from refresh_pipeline.extras import install_command

if TYPE_CHECKING:
    from refresh_pipeline.settings import Settings

LAUNCHER = "ClusterRunLauncher"
PACKAGES = ("celery", "dagster_celery", "dagster_postgres")


def worker(
    *,
    queue: Annotated[
        str, typer.Option(help="Take runs from these queues (comma list): `dagster` for refreshes, `files` for files.")
    ] = "dagster",
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Work on this many runs side by side.")] = 1,
    data_dir: DataDirOption = None,
) -> None:
    """Work on runs from the queues of several machines until interrupted."""
    with request(None, data_dir, lenient=True) as wanted:
        from refresh_pipeline.settings import PACKAGE, child_environment, prepare_dagster

        queues = ",".join(name.strip() for name in queue.split(",") if name.strip())
        if not queues:
            raise ValueError(f"--queue: found {queue!r}; wanted the name of a queue: dagster, files")
        _require_packages()
        _require_cluster(wanted.settings, prepare_dagster(wanted.settings))
    # Celery takes this process's place. A machine may have several workers, and each needs a name of its own.
    app = f"{PACKAGE.name}.instance.celery_app"
    command = [sys.executable, "-P", "-m", "celery", "--app", app, "worker", "--queues", queues]
    command += ["--concurrency", str(concurrency), "--hostname", f"{os.getpid()}@%h", "--loglevel", "WARNING"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, child_environment(wanted.settings, markets_named=False))  # noqa: S606 (our own program)


def _require_packages() -> None:
    if not all(find_spec(package) for package in PACKAGES):
        raise ValueError(f"a worker needs packages that are not installed: {install_command('cluster')}")


def _require_cluster(settings: "Settings", home: Path) -> None:
    """Raise ValueError where Dagster's settings give no runs to workers, or an address that they need is not set."""
    file = home / "dagster.yaml"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if LAUNCHER not in text:
        raise ValueError(
            f"{file}: wanted the run launcher {LAUNCHER}, which gives runs to workers, found another or none; copy "
            "dagster-cluster.yaml there as dagster.yaml"
        )
    for name, address in (("REFRESH_POSTGRES_URL", settings.postgres_url), ("REFRESH_REDIS_URL", settings.redis_url)):
        if name in text and not address:
            raise ValueError(f"{name} is not set, and {file} reads it; set it in .env or in the environment")
