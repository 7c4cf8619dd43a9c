"""What every test stands on: a process without anybody's settings, and folders to refresh in."""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from refresh_pipeline_tests.isolated_env import inside

# Most tests need no Dagster, whose import takes longer than all of them: `worlds` is imported by the first that does.
if TYPE_CHECKING:
    from alembic.config import Config

    from refresh_pipeline_tests.postgres_server import PostgresServer
    from refresh_pipeline_tests.project_folder import World


def pytest_collection_finish() -> None:
    """Tests and what they import stay to the end: the garbage collector need not go through them again and again."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody's: no .env, no home with settings."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="session", autouse=True)
def one_font_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Matplotlib lists the machine's fonts once, not once for each test's own home: that takes two seconds."""
    os.environ.setdefault("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))


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
