"""CSV files that grow: nothing is lost and nothing is there twice, whatever happened to the file in between."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from refresh_pipeline.files import growing
from refresh_pipeline.files.growing import BLOCK, Blocks, grow

HEADER = b"open_time,close\n"


def lines(first: int, end: int) -> list[bytes]:
    return [b"2026-01-01T%02d:%02d:00Z,%d.5\n" % (minute // 60, minute % 60, minute) for minute in range(first, end)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "BTC-USD_m1.csv"
    path.write_bytes(HEADER + b"".join(lines(0, 100)))
    return path


def test_only_missing_rows_are_appended_and_rows_that_are_there_are_compared(path: Path) -> None:
    recorded, inode = Blocks.of(path), path.stat().st_ino
    for begin in (95, 100):
        grown = grow(path, recorded, lines(begin, 103))
        assert grown is not None
        assert grown.rows == 3
        assert grown.blocks == Blocks.of(path)
        assert path.read_bytes() == HEADER + b"".join(lines(0, 103))
        # The manifest did not hear of it: a kill between the append and its record.
    again = grow(path, Blocks.of(path), lines(101, 103))
    assert again is not None
    assert (again.rows, path.stat().st_ino) == (0, inode)
    assert grown.blocks.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_line_that_was_cut_off_by_a_kill_is_repaired(path: Path) -> None:
    recorded = Blocks.of(path)
    with path.open("ab") as file:
        file.write(b"".join(lines(100, 102)) + b"2026-01-01T01:4")
    grown = grow(path, recorded, lines(99, 105))
    assert grown is not None
    assert path.read_bytes() == HEADER + b"".join(lines(0, 105))
    assert (grown.rows, grown.blocks) == (5, Blocks.of(path))


def corrected(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b",98.5", b",98.6"))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def linked(path: Path) -> None:
    os.link(path, path.with_suffix(".older"))


@pytest.mark.parametrize("change", [corrected, cut_off, linked, Path.unlink])
def test_a_file_that_somebody_changed_is_left_to_be_written_whole(change: Callable[[Path], None], path: Path) -> None:
    recorded = Blocks.of(path)
    change(path)
    before = path.read_bytes() if path.exists() else None
    assert grow(path, recorded, lines(100, 103)) is None
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize(
    "wanted",
    [
        [b"2026-01-01T01:38:00Z,98.6\n", *lines(99, 102)],
        [*lines(97, 99), *lines(100, 102)],
        lines(90, 95),
        [b"2026-01-01T00:30:30Z,1\n"],
    ],
    ids=["a corrected row", "a row less", "the last rows gone", "a row in between"],
)
def test_rows_other_than_the_files_own_are_not_appended(wanted: list[bytes], path: Path) -> None:
    before = path.read_bytes()
    assert grow(path, Blocks.of(path), wanted) is None
    assert path.read_bytes() == before


def test_only_the_last_block_is_read_and_the_hash_covers_all_of_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "BLOCK", 1000)
    recorded = Blocks.of(path)
    assert len(recorded.hashes) == 3
    # A row before the last block cannot be compared.
    assert grow(path, recorded, lines(10, 103)) is None
    grown = grow(path, recorded, lines(99, 180))
    assert grown is not None
    assert grown.blocks == Blocks.of(path)
    assert path.read_bytes() == HEADER + b"".join(lines(0, 180))
    parts = [path.read_bytes()[begin : begin + 1000] for begin in range(0, path.stat().st_size, 1000)]
    hashes = b"".join(hashlib.sha256(part).digest() for part in parts)
    assert grown.blocks.digest == hashlib.sha256(hashes).hexdigest()
    assert Blocks.parse(grown.blocks.bytes, str(grown.blocks)) == grown.blocks


def test_the_block_is_the_one_that_the_manual_names() -> None:
    assert BLOCK == 4 * 2**20
