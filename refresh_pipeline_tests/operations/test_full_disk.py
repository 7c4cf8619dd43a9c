"""A disk that is really full: a small file system of its own, which only root can mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from refresh_pipeline.instance.disk_reserve import (
    DATABASES,
    FILE,
    LEAST,
    RESERVE_BYTES,
    free_bytes,
    keep_reserve,
    largest,
)
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, LATER, NOW, World, command


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 80 MB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def test_a_full_disk_ends_a_refresh_in_one_line_and_maintenance_makes_room(small_disk: Path) -> None:
    world = World.founded(small_disk / "world", FEW_INDICATORS)
    with inside(world.root):
        assert command("once", "--now", NOW.isoformat()).exit_code == 0
        stored, data = world.tables()["bazaar.raw_candles"], world.root / "data"
        assert (data / FILE).stat().st_size == LEAST
        fill(small_disk)
        assert free_bytes(data) == 0
        full = command("once", "--now", LATER.isoformat())
        assert (full.exit_code, full.output.count("\n")) == (1, 1)
        assert "The disk is full: make room (refresh maintain helps)" in full.output
        assert set(world.tables()["bazaar.raw_candles"]) >= set(stored)
        maintained = command("maintain")
        assert maintained.exit_code == 0, maintained.output
        assert "deleted 0 runs" in maintained.output
        assert "rows are not compacted" in maintained.output
        assert free_bytes(data) > LEAST // 2
        (small_disk / "filler").unlink()
        keep_reserve(data, data / "dagster")
        assert (data / FILE).exists()


def test_the_reserve_is_made_where_there_is_room_and_never_raises(tmp_path: Path) -> None:
    keep_reserve(tmp_path, tmp_path / "nowhere")
    assert largest(tmp_path) == {FILE: RESERVE_BYTES}
    keep_reserve(tmp_path / "nowhere", tmp_path / "nowhere")


def test_the_reserve_is_as_large_as_the_databases_whose_rows_are_deleted(tmp_path: Path) -> None:
    data, database = tmp_path / "data", tmp_path / "home" / DATABASES[0]
    data.mkdir()
    database.parent.mkdir(parents=True)
    for size, reserve in ((0, LEAST), (3_000_000, 3_000_000), (1_000_000, 3_000_000), (10**9, RESERVE_BYTES)):
        with database.open("ab") as file:
            file.truncate(size)
        keep_reserve(data, tmp_path / "home")
        assert largest(data) == {FILE: reserve}
