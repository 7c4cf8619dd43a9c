"""A restore is one step: whatever fails or is killed in it, everything is as it was or can be put back."""

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.instance.data_lock import lock_data_folder
from refresh_pipeline.operations.backup import BackupError, back_up, files_below, read_backup
from refresh_pipeline.operations.restore import restore, undo, unfinished_restore
from refresh_pipeline.settings import Settings, dagster_home, load_settings
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import NOW, command

KILLER = """
import os, sys
from pathlib import Path
from refresh_pipeline.operations.backup import read_backup
from refresh_pipeline.operations.restore import restore
steps = int(sys.argv[1])
def rename(source, target):
    global steps
    steps -= 1
    if steps < 0:
        os._exit(9)
    os.replace(source, target)
restore(read_backup(Path(sys.argv[2])), Path(sys.argv[3]), Path(sys.argv[4]), rename)
"""


@dataclass(frozen=True)
class Small:
    """A data folder with a small warehouse and small files of Dagster."""

    settings: Settings

    @property
    def home(self) -> Path:
        return dagster_home(self.settings)

    def change(self, statement: str) -> None:
        with duckdb.connect(str(self.settings.database)) as connection:
            connection.execute(statement)

    def restored(self, rename: Callable[[Path, Path], object] = os.replace) -> list[Path]:
        return restore(read_backup(self.backup), self.settings.database, self.home, rename)

    @property
    def backup(self) -> Path:
        return next(self.settings.backups.glob("2026*"))

    @property
    def renames(self) -> int:
        """How many renames a restore takes: entries of Dagster's folder aside and in, and the database."""
        return 1 + len(list(self.home.iterdir())) + len(list((self.backup / "dagster").iterdir()))

    @property
    def state(self) -> dict[str, object]:
        """Every file of Dagster's and every table."""
        files = {str(path.relative_to(self.home)): path.read_bytes() for path in files_below(self.home)}
        with duckdb.connect(str(self.settings.database), read_only=True) as connection:
            tables = [name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()]
            return {**files, **{name: connection.execute(f"select * from {name}").fetchall() for name in tables}}


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Small]:
    """A data folder with a backup, in which something has changed since."""
    with inside(tmp_path):
        small = Small(load_settings())
        (small.home / "history").mkdir(parents=True)
        (small.home / "history" / "index.txt").write_text("old")
        (small.home / "dagster.yaml").write_text("# old\n")
        with closing(sqlite3.connect(small.home / "runs.db")) as runs:
            runs.execute("create table runs (id text)")
        small.change("create table older as select range as a from range(1000)")
        back_up(small.settings.backups, small.settings.database, small.home, NOW)
        small.change("create table newer as select 1 as a")
        (small.home / "newer.txt").write_text("newer")
        (small.home / "dagster.yaml").write_text("# newer\n")
        yield small


def failing(after: int, number: int) -> Callable[[Path, Path], None]:
    """`os.replace` that raises the error of this number at the call after so many."""
    calls = 0

    def rename(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(number, os.strerror(number), str(source), None, str(target))
        source.replace(target)

    return rename


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EACCES])
def test_an_error_at_any_rename_leaves_everything_as_it_was(changed: Small, number: int) -> None:

    before = changed.state
    for after in range(changed.renames):
        with pytest.raises(BackupError, match=r"what was there|the rest is untouched"):
            changed.restored(failing(after, number))
        assert changed.state == before
        assert not list(changed.settings.data.rglob(".restoring")) + list(changed.settings.data.glob(".*.restor*"))


def test_a_killed_restore_is_named_and_put_back_or_repeated(changed: Small) -> None:
    before = changed.state
    total = changed.renames
    for after in (0, total // 2, total - 1):
        arguments = [str(after), str(changed.backup), str(changed.settings.database), str(changed.home)]
        assert subprocess.run([sys.executable, "-c", KILLER, *arguments], check=False).returncode == 9
        assert changed.settings.database.exists()
        for name in ("once", "publish", "backup"):
            refused = command(name)
            assert refused.exit_code == 1
            assert "a restore was killed halfway" in refused.output
        assert "a restore was killed halfway" in command("status").output
        assert command("restore", "--undo", "--yes").exit_code == 0
        assert changed.state == before
    subprocess.run([sys.executable, "-c", KILLER, "2", *arguments[1:]], check=False)
    assert command("restore", "--yes").exit_code == 0
    assert unfinished_restore(changed.settings.database, changed.home) == ""
    assert "newer" not in changed.state


def test_what_was_replaced_is_kept_until_the_next_restore_and_can_be_put_back(changed: Small) -> None:
    before = changed.state
    restored = command("restore", "--yes")
    assert restored.exit_code == 0, restored.output
    kept = changed.settings.data / ".refresh.duckdb.replaced"
    assert f"kept until the next restore: {kept}" in restored.output
    assert "newer.txt" not in changed.state
    undo(changed.settings.database, changed.home)
    assert changed.state == before
    with pytest.raises(BackupError, match="no restore to undo"):
        undo(changed.settings.database, changed.home)


def test_a_linked_folder_and_a_linked_database_keep_their_places(changed: Small, tmp_path: Path) -> None:
    settings = changed.settings
    for path in (settings.database, changed.home):
        elsewhere = tmp_path / "disk" / path.name
        elsewhere.parent.mkdir(exist_ok=True)
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
    assert command("restore", "--yes").exit_code == 0
    assert settings.database.is_symlink()
    assert changed.home.is_symlink()
    assert "newer" not in changed.state


def test_a_backup_holds_nothing_of_what_a_restore_put_aside(changed: Small) -> None:
    assert command("restore", "--yes").exit_code == 0
    settings = changed.settings
    again = back_up(settings.backups, settings.database, changed.home, NOW.replace(minute=9))
    assert not [name for name in again.files if ".replaced" in name]


def test_a_restore_beside_refresh_up_is_refused(changed: Small) -> None:
    before, lock = changed.state, lock_data_folder(changed.settings.data, "refresh up")
    try:
        for arguments in ((), ("--undo",)):
            refused = command("restore", "--yes", *arguments)
            assert refused.exit_code == 2
            assert "refresh up" in refused.output
    finally:
        os.close(lock)
    assert changed.state == before
