"""Uploads into a folder: only what differs, verified, under the root, one failure at a time."""

import errno
import os
from pathlib import Path

import pytest

from refresh_pipeline.destinations import (
    DestinationError,
    Outgoing,
    PermanentUploadError,
    TransientUploadError,
    Uploaded,
)
from refresh_pipeline.destinations.folder import FolderDestination
from refresh_pipeline.destinations.paths import WrongDestination
from refresh_pipeline.files.atomic import sha256_of
from refresh_pipeline_tests.destinations.limits import largest_file

# Linux gives another content at each reading.
EVER_CHANGING = Path("/proc/sys/kernel/random/uuid")
REMOTES = ("crypto/BTC-USDT_m1.csv", "crypto/BTC-USDT_H1.csv", "fx/EUR-USD_H1.parquet")


@pytest.fixture
def outgoing(tmp_path: Path) -> list[Outgoing]:
    files = [Outgoing(tmp_path / "exports" / remote, remote) for remote in REMOTES]
    for file in files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text(f"content of {file.remote}")
    return files


@pytest.fixture
def destination(tmp_path: Path) -> FolderDestination:
    return FolderDestination(tmp_path / "uploads")


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def errors_of(results: list[Uploaded]) -> list[str]:
    return [result.file.remote for result in results if result.error is not None]


def test_files_arrive_whole_with_their_hashes(destination: FolderDestination, outgoing: list[Outgoing]) -> None:
    results = list(destination.upload(outgoing))
    assert [result.file for result in results] == outgoing
    assert everything_in(destination.root) == sorted(REMOTES)
    for result in results:
        arrived = destination.root / result.file.remote
        assert arrived.read_bytes() == result.file.path.read_bytes()
        assert (result.content_hash, result.bytes) == (sha256_of(arrived), arrived.stat().st_size)
        assert (result.url, result.skipped, result.error) == (arrived.as_uri(), False, None)


def test_what_is_there_already_is_not_copied_again(destination: FolderDestination, outgoing: list[Outgoing]) -> None:
    first = list(destination.upload(outgoing))
    arrived = destination.root / REMOTES[0]
    before = arrived.stat()
    again = list(destination.upload(outgoing))
    assert [result.skipped for result in again] == [True] * 3
    assert [result.content_hash for result in again] == [result.content_hash for result in first]
    assert (arrived.stat().st_ino, arrived.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_upload_is_noticed_and_mended(destination: FolderDestination, outgoing: list[Outgoing]) -> None:
    list(destination.upload(outgoing))
    arrived = destination.root / REMOTES[1]
    arrived.write_text("x" * arrived.stat().st_size)
    results = list(destination.upload(outgoing))
    assert [result.skipped for result in results] == [True, False, True]
    assert arrived.read_bytes() == outgoing[1].path.read_bytes()


def test_results_come_while_the_upload_goes_on(destination: FolderDestination, outgoing: list[Outgoing]) -> None:
    many = [Outgoing(outgoing[0].path, f"crypto/{number}.csv") for number in range(200)]
    results = destination.upload(many)
    next(results)
    assert 0 < len(everything_in(destination.root)) < 100
    assert len(list(results)) == 199
    assert len(everything_in(destination.root)) == 200


def test_a_folder_in_the_files_place_stops_no_other_file(
    destination: FolderDestination, outgoing: list[Outgoing]
) -> None:
    (destination.root / REMOTES[0]).mkdir(parents=True)
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert isinstance(results[0].error, PermanentUploadError)
    assert str(destination.root / REMOTES[0]) in str(results[0].error)
    assert everything_in(destination.root) == sorted(REMOTES[1:])


def test_a_file_in_a_folders_place_stops_no_other_file(
    destination: FolderDestination, outgoing: list[Outgoing]
) -> None:
    destination.root.mkdir()
    (destination.root / "crypto").write_text("")
    assert errors_of(list(destination.upload(outgoing))) == list(REMOTES[:2])


def test_a_full_disk_names_the_bytes_and_keeps_the_previous_file(
    destination: FolderDestination, outgoing: list[Outgoing]
) -> None:
    list(destination.upload(outgoing))
    outgoing[0].path.write_bytes(b"0123456789" * 20_000)
    outgoing[1].path.write_bytes(b"new")
    with largest_file(50_000):
        results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert "about 200,000 bytes wanted" in str(results[0].error)
    assert (destination.root / REMOTES[0]).read_text() == f"content of {REMOTES[0]}"
    assert (destination.root / REMOTES[1]).read_bytes() == b"new"
    assert everything_in(destination.root) == sorted(REMOTES)


def test_a_forbidden_folder_stops_no_other_file(destination: FolderDestination, outgoing: list[Outgoing]) -> None:
    forbidden = destination.root / "crypto"
    forbidden.mkdir(parents=True, mode=0o500)
    if os.access(forbidden, os.W_OK):
        pytest.skip("this user may write everywhere")
    results = list(destination.upload(outgoing))
    assert errors_of(results) == list(REMOTES[:2])
    assert os.strerror(errno.EACCES) in str(results[0].error)


def test_a_file_that_was_not_exported_is_an_error_that_says_so(
    destination: FolderDestination, outgoing: list[Outgoing]
) -> None:
    outgoing[0].path.unlink()
    results = list(destination.upload(outgoing))
    assert errors_of(results) == [REMOTES[0]]
    assert "export it again" in str(results[0].error)


@pytest.mark.skipif(not EVER_CHANGING.exists(), reason="no file here reads differently each time")
def test_a_file_that_changes_while_it_is_copied_does_not_replace_the_good_one(
    destination: FolderDestination, outgoing: list[Outgoing]
) -> None:
    list(destination.upload(outgoing))
    [result] = destination.upload([Outgoing(EVER_CHANGING, REMOTES[0])])
    assert isinstance(result.error, TransientUploadError)
    assert "arrived changed" in str(result.error)
    assert (destination.root / REMOTES[0]).read_text() == f"content of {REMOTES[0]}"
    assert everything_in(destination.root) == sorted(REMOTES)


@pytest.mark.parametrize(
    "remote", ["../outside.csv", "crypto/../../outside.csv", "/outside.csv", "", "a\\b.csv", "a\0b"]
)
def test_no_file_leaves_the_root(destination: FolderDestination, outgoing: list[Outgoing], remote: str) -> None:
    stray = Outgoing(outgoing[0].path, remote)
    results = list(destination.upload([stray, *outgoing]))
    assert errors_of(results) == [remote]
    assert "under the destination's root" in str(results[0].error)
    assert everything_in(destination.root) == sorted(REMOTES)
    assert not (destination.root.parent / "outside.csv").exists()


def test_hashes_are_of_what_is_really_there(destination: FolderDestination, outgoing: list[Outgoing]) -> None:
    assert destination.hashes(REMOTES) == {}
    list(destination.upload(outgoing))
    (destination.root / REMOTES[0]).write_text("changed")
    (destination.root / REMOTES[1]).unlink()
    assert destination.hashes(REMOTES) == {
        REMOTES[0]: sha256_of(destination.root / REMOTES[0]),
        REMOTES[2]: sha256_of(outgoing[2].path),
    }


def test_hashes_refuse_a_path_outside_the_root(destination: FolderDestination) -> None:
    with pytest.raises(DestinationError, match="under the destination's root"):
        destination.hashes(["../outside.csv"])


def test_a_file_url_is_percent_decoded(tmp_path: Path, outgoing: list[Outgoing]) -> None:
    folder = tmp_path / "my uploads #1"
    destination = FolderDestination(folder.as_uri())
    assert [result.error for result in destination.upload(outgoing)] == [None] * 3
    assert everything_in(folder) == sorted(REMOTES)
    assert destination.url == folder.as_uri()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file://data/uploads", "write file:///data/uploads"),
        ("file:data/uploads", "write file:///data/uploads"),
        ("file://", "write file:///folder"),
        ("file:///data/a#1", "%23"),
        ("file:///data/a?b", "%3F"),
        ("file:///data/../etc", r"without '\.\.'"),
        ("file:///data/%2E%2E/etc", r"without '\.\.'"),
        ("file:///data/a%00", "zero bytes"),
        ("file://[", "cannot be read"),
    ],
)
def test_a_file_url_without_an_absolute_path_is_refused_with_words(url: str, words: str) -> None:
    with pytest.raises(WrongDestination, match=words):
        FolderDestination(url)
