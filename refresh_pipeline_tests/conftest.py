"""What every test stands on: a process without anybody's settings, and folders to refresh in."""

import gc
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from refresh_pipeline.warehouse.connection import CONFIG
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.reference_data import MADE, ORIGINS, REAL_CANDLES

# Most tests need no Dagster, whose import takes longer than all of them: `worlds` is imported by the first that does.
if TYPE_CHECKING:
    from alembic.config import Config

    from refresh_pipeline_tests.postgres_server import PostgresServer
    from refresh_pipeline_tests.project_folder import World

# A file system in memory, on Linux. A run leaves up to 1 GB of files.
MEMORY = Path("/dev/shm")
ROOM = 3 * 1024**3

# The files that take longest, longest first: they start programs, or refresh whole markets. A quarter of the files
# takes four fifths of the time. `make test` leaves them out, and `make test-long` runs them, the longest first: begun
# last, one of them keeps a worker busy alone.
LONG = (
    "orchestration/test_assets.py",
    "end_to_end/test_dagster_commands.py",
    "api/test_dashboard.py",
    "end_to_end/test_up.py",
    "benchmarks/test_benchmarks.py",
    "pipeline/test_histories.py",
    "warehouse/test_column_versions.py",
    "end_to_end/test_front_door.py",
    "cli/test_app.py",
    "instance/test_launcher.py",
    "end_to_end/test_real_files.py",
    "pipeline/test_backfill.py",
    "warehouse/test_incremental.py",
    "end_to_end/test_killed.py",
    "orchestration/test_checks.py",
    "pipeline/test_export_verification.py",
    "pipeline/test_export.py",
    "api/test_binance.py",
    "orchestration/test_destination_assets.py",
    "streaming/test_live_run.py",
    "orchestration/test_materialization.py",
    "pipeline/test_gaps.py",
    "end_to_end/test_embedded_defaults.py",
    "end_to_end/test_crypto.py",
    "api/test_series.py",
    "end_to_end/test_killed_backfill.py",
    "warehouse/test_ingest.py",
    "instance/test_celery_launcher.py",
    "end_to_end/test_shared_limits.py",
    "api/test_push.py",
    "end_to_end/test_side_by_side.py",
    "end_to_end/test_venues.py",
    "end_to_end/test_failover.py",
    "orchestration/test_run_jobs.py",
    "operations/test_backup.py",
    "monitoring/test_problems.py",
    "sources/test_binance_archive.py",
    "pipeline/test_export_retention.py",
    "analytics/test_incremental.py",
    "api/test_description.py",
    "warehouse/test_versions.py",
    "pipeline/test_changed_sources.py",
    "api/test_reading.py",
    "warehouse/test_checkpoints.py",
    "warehouse/test_deep_check.py",
    "pipeline/test_export_dataset.py",
    "api/test_secrets.py",
    "soak/test_soak.py",
    "orchestration/test_reported_partitions.py",
    "pipeline/test_upload.py",
    "benchmarks/test_growth.py",
    "test_wheel.py",
    "instance/test_run_lock.py",
    "instance/test_event_log.py",
    "pipeline/test_fetch.py",
    "operations/test_restore.py",
    "warehouse/test_connection.py",
    "warehouse/test_expired_rows.py",
    "monitoring/test_notify.py",
    "client/test_client.py",
    "orchestration/test_sensors.py",
    "warehouse/test_compaction.py",
    "sources/test_rate_limits.py",
    "operations/test_missing_warehouse.py",
    "operations/test_maintenance.py",
    "apis/test_payload_rows.py",
    "pipeline/test_rejections.py",
    "warehouse/test_point_in_time.py",
    "instance/test_run_pruning.py",
    "warehouse/test_opinions.py",
    "api/test_serving.py",
    "cli/test_check.py",
    "orchestration/test_chunks.py",
    "orchestration/test_freshness.py",
    "pipeline/test_random_changes.py",
    "instance/test_orphaned_runs.py",
    "analytics/test_lazy_talib.py",
    "operations/test_full_disk.py",
    "warehouse/test_warehouse.py",
    "orchestration/test_charts.py",
    "instance/test_postgres_storage.py",
)
PLACES = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}


def pytest_configure() -> None:
    """Tests write to memory where there is room: DuckDB and SQLite wait for the disk longer than they compute.

    Python caches what it compiles, whoever runs the tests: a process that a test starts would compile the package anew.
    """
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ and usable(MEMORY):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.tempdir = str(MEMORY)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # pytest rewrites this one, a package with a plugin. The parser of Python 3.11 fails now and then under a deep stack
    # ("AST constructor recursion depth mismatch"): imported by the first request of a test it had one.
    import_module("anyio._backends._asyncio")
    # Collecting makes a million objects that stay: the garbage collector would go through them dozens of times.
    gc.disable()


def usable(folder: Path) -> bool:
    """Whether a folder takes the files of a run, and programs among them."""
    if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < ROOM:
        return False
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file whose tests would all be left out by their mark need not be read, nor what it imports."""
    asked, is_long = config.option.markexpr.split(), _place(collection_path) < len(LONG)
    if collection_path.suffix != ".py" or "long" not in asked:
        return None
    return (asked[0] == "not") == is_long or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long files before pytest chooses by marks, and begin with them.

    `--no-loadscope-reorder` lets pytest-xdist keep to the order.
    """
    for item in items:
        if _place(item.path) < len(LONG):
            item.add_marker("long")
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> int:
    """A file's place among the long ones; their number for any other."""
    return PLACES.get(path, len(LONG))


def pytest_collection_finish() -> None:
    """Tests and what they import stay to the end: the garbage collector need not go through them again and again.

    It looks for cycles after 20,000 new objects, not 700: a run of Dagster makes millions, and few are in cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


def pytest_sessionfinish() -> None:
    """What is left at a process's end is taken away in its order."""
    gc.unfreeze()
    if folders := sys.modules.get("refresh_pipeline_tests.project_folder"):
        folders.dispose_of_idle_instances()


@pytest.fixture(scope="session", autouse=True)
def migrations_read_once() -> Iterator[None]:
    """Dagster reads ninety migration scripts for each database that it makes or opens, 0.15 s for some of them."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    read = ScriptDirectory.from_config
    known: dict[str | None, ScriptDirectory] = {}

    def from_config(config: "Config") -> ScriptDirectory:
        location = config.get_main_option("script_location")
        if location not in known:
            known[location] = read(config)
        return known[location]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", from_config)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Dagster's SQLite files do not wait for the disk after each event: no test turns the machine off."""
    from sqlalchemy import Engine, event  # noqa: PLC0415

    def do_not_wait(connection: Any, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("pragma synchronous = off")

    event.listen(Engine, "connect", do_not_wait)
    yield
    event.remove(Engine, "connect", do_not_wait)


@pytest.fixture(scope="session", autouse=True)
def one_thread_of_duckdb_a_worker() -> Iterator[None]:
    """DuckDB takes a thread for each core, and as many processes of pytest-xdist share them: a tenth of their time."""
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setitem(CONFIG, "threads", 1)
        yield


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody's: no .env, no home with settings."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="session", autouse=True)
def one_font_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Matplotlib lists the machine's fonts once, not once for each test's own home: that takes two seconds."""
    # The workers of pytest-xdist lie side by side in one folder.
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    (shared / "matplotlib").mkdir(exist_ok=True)
    os.environ.setdefault("MPLCONFIGDIR", str(shared / "matplotlib"))


@pytest.fixture(autouse=True)
def nobodys_settings(empty_folder: Path) -> Iterator[None]:
    """No test reads the settings of whoever runs it, or leaves its own behind."""
    logger = logging.getLogger("refresh_pipeline")
    level, handlers = logger.level, list(logger.handlers)
    with inside(empty_folder):
        yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def made_candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with candles of our own making that have the faults of real ones."""
    from refresh_pipeline_tests.candle_samples import write_samples  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("candles")
    write_samples(folder)
    return folder


@pytest.fixture(params=ORIGINS)
def candle_folder(request: pytest.FixtureRequest, made_candles: Path) -> Path:
    """Candles with the faults of published ones: made here, and real ones where they lie beside the checkout."""
    return made_candles if request.param == MADE else REAL_CANDLES


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> "World":
    """A world in which nothing has happened; to be copied."""
    from refresh_pipeline_tests.project_folder import World  # noqa: PLC0415

    return World.founded(tmp_path_factory.mktemp("founded") / "world")


@pytest.fixture(scope="session")
def refreshed(tmp_path_factory: pytest.TempPathFactory, founded: "World") -> "World":
    """A world that was refreshed and published at NOW; to be copied."""
    world = founded.copied(tmp_path_factory.mktemp("refreshed") / "world")
    with inside(world.root), world.dagster() as instance:
        assert world.run("refresh", instance=instance).success
        assert world.run("publish", instance=instance).success
    return world


@pytest.fixture
def new_world(founded: "World", tmp_path: Path) -> "Iterator[World]":
    """A world in which nothing has happened, and this process inside."""
    world = founded.copied(tmp_path / "world")
    with inside(world.root):
        yield world


@pytest.fixture
def wide_world(tmp_path: Path) -> "Iterator[World]":
    """A world in which nothing has happened, whose market computes all default columns, and this process inside."""
    from refresh_pipeline_tests.project_folder import BAZAAR, EXPORTS, UPLOADS, World  # noqa: PLC0415

    world = World.founded(tmp_path / "world", BAZAAR + EXPORTS + UPLOADS)
    with inside(world.root):
        yield world


@pytest.fixture
def world(refreshed: "World", tmp_path: Path) -> "Iterator[World]":
    """A world that was refreshed and published at NOW, and this process inside."""
    world = refreshed.copied(tmp_path / "world")
    with inside(world.root):
        yield world


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """A PostgreSQL server for all tests of this process; each takes a database of its own."""
    from refresh_pipeline_tests.postgres_server import postgres_server  # noqa: PLC0415

    with postgres_server() as server:
        yield server
