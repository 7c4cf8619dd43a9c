"""What every test stands on: a process without anybody's settings, and folders to refresh in."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from refresh_pipeline_tests.worlds import World, inside


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody's: no .env, no home with settings."""
    return tmp_path_factory.mktemp("empty")


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
def founded(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which nothing has happened; to be copied."""
    return World.founded(tmp_path_factory.mktemp("founded") / "world")


@pytest.fixture(scope="session")
def refreshed(tmp_path_factory: pytest.TempPathFactory, founded: World) -> World:
    """A world that was refreshed and published at NOW; to be copied."""
    world = World.copied(founded, tmp_path_factory.mktemp("refreshed") / "world")
    with inside(world.root):
        assert world.run("refresh").success
        assert world.run("publish").success
    return world


@pytest.fixture
def new_world(founded: World, tmp_path: Path) -> Iterator[World]:
    """A world in which nothing has happened, and this process inside."""
    world = World.copied(founded, tmp_path / "world")
    with inside(world.root):
        yield world


@pytest.fixture
def world(refreshed: World, tmp_path: Path) -> Iterator[World]:
    """A world that was refreshed and published at NOW, and this process inside."""
    world = World.copied(refreshed, tmp_path / "world")
    with inside(world.root):
        yield world
