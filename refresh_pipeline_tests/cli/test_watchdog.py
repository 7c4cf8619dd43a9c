"""The process of `refresh up` notices that nothing moves in Dagster's folder, and says so."""

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat
from typer.testing import CliRunner

from refresh_pipeline.cli.app import app
from refresh_pipeline.cli.watchdog import LONGEST_SILENCE, SECONDS_BETWEEN_READINGS, SIGNS, Watchdog, newest, silences
from refresh_pipeline_tests.project_folder import World

NOON = 1_780_315_200.0
# Appends its title to a file.
TELLS = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"


def home_with_ticks(folder: Path) -> Path:
    for name, table in (("schedules/schedules.db", "job_ticks (id, update_timestamp)"),):
        (folder / name).parent.mkdir(parents=True)
        with closing(sqlite3.connect(folder / name)) as connection:
            connection.execute(f"create table {table}")
    (folder / "history").mkdir()
    with closing(sqlite3.connect(folder / "history" / "runs.db")) as connection:
        connection.execute("create table daemon_heartbeats (timestamp)")
    return folder


def beat(home: Path, *, tick: int) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db", isolation_level=None)) as connection:
        connection.execute("insert into daemon_heartbeats values (?)", [tick])
    with closing(sqlite3.connect(home / "schedules" / "schedules.db", isolation_level=None)) as connection:
        connection.execute("insert into job_ticks values (?, ?)", [tick, f"2026-06-01 12:00:{tick:02}"])


class Watched:
    """A watchdog whose clock the test moves, and whose alerts land in a file."""

    def __init__(self, home: Path) -> None:
        self.now, self.file = 0.0, home.parent / "alerts"
        self.file.touch()
        self.dog = Watchdog(str(home), [sys.executable, "-c", TELLS, str(self.file)], clock=lambda: self.now)

    def after(self, seconds: float) -> str:
        self.now += seconds
        return self.dog.look()

    def alerts(self) -> list[str]:
        self.dog.wait()
        return sorted(self.file.read_text().splitlines())


def test_silence_is_said_once_and_that_it_is_over(tmp_path: Path) -> None:
    home = home_with_ticks(tmp_path / "home")
    beat(home, tick=1)
    watched = Watched(home)
    for _ in range(3):
        assert watched.after(SECONDS_BETWEEN_READINGS) == ""
    assert watched.alerts() == []
    for _ in range(3):
        assert watched.after(LONGEST_SILENCE) == ""
    assert watched.alerts() == [
        "Refresh Pipeline: no heartbeat for 12 minutes",
        "Refresh Pipeline: no tick for 12 minutes",
    ]
    beat(home, tick=2)
    watched.after(SECONDS_BETWEEN_READINGS)
    assert "Refresh Pipeline: ticks are back" in watched.alerts()


def test_ticks_that_move_are_no_news(tmp_path: Path) -> None:
    home = home_with_ticks(tmp_path / "home")
    watched = Watched(home)
    for number in range(4):
        beat(home, tick=number)
        watched.after(LONGEST_SILENCE)
    assert watched.alerts() == []


def test_a_folder_that_is_gone_is_a_reason_to_end(tmp_path: Path) -> None:
    home = home_with_ticks(tmp_path / "home")
    watched = Watched(home)
    assert watched.after(1) == ""
    shutil.rmtree(home)
    assert watched.after(1) == f"Dagster's files are gone from {home}. Restore a backup with refresh restore."


def test_other_storages_are_not_looked_at(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "postgres")
    assert watched.after(LONGEST_SILENCE) == ""
    assert watched.alerts() == []


def test_dagsters_own_files_hold_the_signs(new_world: World) -> None:
    with new_world.dagster() as instance:
        home = Path(instance.root_directory)
    assert [newest(home / file, query) for file, query, _ in SIGNS.values()] == [(None,), (None, None)]


# ---- refresh watch


@pytest.fixture
def lived(tmp_path: Path) -> Path:
    """Dagster's folder as a daemon leaves it that wrote its last signs at 12:00."""
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(NOON, "SENSOR", "1", []))
        tick = TickData("origin", "alerts", InstigatorType.SENSOR, TickStatus.SKIPPED, NOON, selector_id="s")
        assert instance.schedule_storage is not None
        instance.schedule_storage.create_tick(tick)
    return home


def test_a_daemon_that_lives_is_well_and_a_silent_one_is_named(lived: Path, tmp_path: Path) -> None:
    assert silences(lived, NOON + 500) == []
    heartbeat, tick = silences(lived, NOON + 1200)
    assert heartbeat.startswith("no heartbeat for 20 minutes; ")
    assert tick.startswith("no tick for 20 minutes; ")
    assert len(silences(tmp_path / "nowhere", NOON)) == 2


def test_the_command_ends_with_1_where_the_daemon_is_silent(lived: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(lived))
    result = CliRunner().invoke(app, ["watch"])
    assert (result.exit_code, "no heartbeat for" in result.output) == (1, True)
