"""The data folder is this user's: another local user neither reads the warehouse nor holds its lock."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from refresh_pipeline.destinations import Outgoing
from refresh_pipeline.destinations.folder import FolderDestination
from refresh_pipeline.settings import keep_files_private, make_private

NOBODY = 65534
AS_NOBODY = """
import fcntl, os, sys
os.setgid(65534); os.setuid(65534)
try:
    with open(sys.argv[1], "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    print("in")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user reaches."""
    before, folder = os.umask(0o022), Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def test_an_open_data_folder_is_shut_with_a_sentence(reachable: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = reachable / "data"
    data.mkdir()
    make_private(data)
    assert data.stat().st_mode & 0o777 == 0o700
    assert caplog.messages == [f"{data} was open to other users of this machine; its mode is 0700 now"]
    make_private(reachable / "new" / "data")
    assert (reachable / "new" / "data").stat().st_mode & 0o777 == 0o700
    assert len(caplog.messages) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_neither_reads_nor_holds_the_warehouse(reachable: Path) -> None:
    data = reachable / "data"
    data.mkdir()
    (data / "refresh.duckdb").write_bytes(b"candles")

    def tried() -> str:
        command = [sys.executable, "-c", AS_NOBODY, str(data / "refresh.duckdb")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert tried() == "in"
    make_private(data)
    assert tried() == "PermissionError"


def test_files_are_private_and_uploads_as_open_as_their_folder(reachable: Path) -> None:
    keep_files_private()
    (reachable / "file").write_text("x")
    assert (reachable / "file").stat().st_mode & 0o777 == 0o600
    (result,) = FolderDestination(reachable).upload([Outgoing(reachable / "file", "a/b/copy.csv")])
    assert result.error is None
    assert (reachable / "a" / "b" / "copy.csv").stat().st_mode & 0o777 == 0o644
    assert (reachable / "a" / "b").stat().st_mode & 0o777 == 0o755
