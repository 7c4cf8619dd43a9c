"""Which older copies of export files are kept; the last good copy never goes, and what goes is on record."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from refresh_pipeline.pipeline import export_retention
from refresh_pipeline.pipeline.export import current_files, older_folder
from refresh_pipeline.pipeline.export_duplicates import find_duplicates, link, remove
from refresh_pipeline.pipeline.export_retention import RECORD, older_files, prune
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, NOW, World, command
from refresh_pipeline_tests.step_helpers import BTC, computed, exported, fetched

NAME = "bazaar/current/candles/BTC-USD_m15.csv"
ROUNDS = 5


def asks(world: World, keep: str) -> None:
    export = f"exports: {{current: {{layers: candles, formats: csv, window: {{last: 5}}, keep: {keep}}}}}\n"
    (world.root / "markets" / "bazaar.yaml").write_text(FEW_INDICATORS + export)


@pytest.fixture(scope="module")
def five_times(founded: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which one series was exported five times, a day apart, and everything was kept; to be copied."""
    world = founded.copied(tmp_path_factory.mktemp("five_times") / "world")
    asks(world, "{newest: 100}")
    with inside(world.root):
        for number in range(ROUNDS):
            again(world, number)
            written = (NOW + timedelta(days=number)).timestamp()
            os.utime(current(world), (written, written))
    return world


@pytest.fixture
def made(five_times: World, tmp_path: Path) -> Iterator[World]:
    """A copy of it, and this process inside."""
    world = five_times.copied(tmp_path / "world")
    with inside(world.root):
        yield world


def again(world: World, number: int) -> None:
    """What a refresh and its publishing do, so many candles later."""
    now = NOW + timedelta(minutes=15 * number)
    fetched(world, now, [BTC])
    computed(world, [BTC])
    exported(world, now, [BTC])


def current(world: World) -> Path:
    return world.settings.exports_dir / NAME


def older(world: World) -> list[str]:
    """The older copies, by the day of June on which they were written."""
    return [f"{each.written:%-d}" for each in older_files(world.settings.exports_dir, NAME)]


def pruned(world: World, days: int = ROUNDS, dry_run: bool = False) -> dict[str, str]:
    now = NOW + timedelta(days=days)
    files = current_files(world.warehouse, world.market)
    going = prune(world.market, world.settings.exports_dir, files, now, dry_run=dry_run)
    return {f"{each.file.written:%-d}": each.reason for each in going}


def version(world: World) -> int:
    """The version of the files of the series in the change feed."""
    statement = (
        "select version from bazaar.versions where asset = 'exports' and instrument = 'BTC/USD' and timeframe = 'm15'"
    )
    with world.warehouse.get_connection() as connection:
        [(found,)] = connection.execute(statement).fetchall()
    return found


def test_a_file_that_is_replaced_is_kept_under_the_time_it_was_written(made: World) -> None:
    assert older(made) == ["4", "3", "2", "1"]
    kept = older_files(made.settings.exports_dir, NAME)[0].path
    assert kept.name == "BTC-USD_m15.20260604T120030Z.csv"
    assert older_folder(made.settings.exports_dir) in kept.parents
    assert [path.name for path in current(made).parent.iterdir()] == ["BTC-USD_m15.csv"]


def test_without_a_word_nothing_older_is_kept(new_world: World) -> None:
    asks(new_world, "{}")
    for number in range(2):
        again(new_world, number)
    assert older(new_world) == []


@pytest.mark.parametrize(
    ("keep", "going"),
    [
        ("{newest: 100}", {}),
        ("{newest: 3}", {"2": "newest: 3", "1": "newest: 3"}),
        ("{newest: 1}", dict.fromkeys("4321", "newest: 1")),
        ("{newest: 100, days: 3}", {"2": "days: 3", "1": "days: 3"}),
        ("{newest: 4, days: 4}", {"1": "newest: 4"}),
    ],
)
def test_what_the_yaml_does_not_want_kept_goes(made: World, keep: str, going: dict[str, str]) -> None:
    asks(made, keep)
    content = current(made).read_bytes()
    assert pruned(made) == going
    assert older(made) == [day for day in "4321" if day not in going]
    assert current(made).read_bytes() == content
    assert pruned(made) == {}


def test_beyond_the_budget_the_oldest_go_first_and_the_current_one_stays_however_large(made: World) -> None:
    asks(made, "{newest: 100, megabytes: 1}")
    for each in older_files(made.settings.exports_dir, NAME):
        each.path.write_bytes(b"x" * 400_000)
    assert [*pruned(made)] == ["1", "2"]
    assert older(made) == ["4", "3"]
    made.change("update bazaar.exports set bytes = 10000000")
    assert [*pruned(made)] == ["3", "4"]
    assert current(made).exists()


@pytest.mark.parametrize("fate", ["lost", "damaged"])
def test_the_last_good_copy_is_never_deleted(made: World, fate: str) -> None:
    asks(made, "{newest: 1, days: 1, megabytes: 1}")
    newest, second, *_ = older_files(made.settings.exports_dir, NAME)
    newest.path.write_bytes(b"\xff no table")
    if fate == "lost":
        current(made).unlink()
    else:
        current(made).write_text("half a fi")
    pruned(made, days=1000)
    assert older(made) == [f"{second.written:%-d}"]


def test_a_dry_run_deletes_nothing_and_says_the_same(made: World) -> None:
    asks(made, "{newest: 2}")
    before = older(made)
    said = pruned(made, dry_run=True)
    assert older(made) == before
    assert said == pruned(made)


def test_what_was_deleted_is_on_record(made: World, caplog: pytest.LogCaptureFixture) -> None:
    asks(made, "{newest: 4}")
    caplog.set_level("INFO", logger="refresh_pipeline")
    pruned(made)
    record = (older_folder(made.settings.exports_dir) / RECORD).read_text()
    assert record.startswith("20260606T120030Z,bazaar/current/candles/BTC-USD_m15.20260601T120030Z.csv,")
    assert record.rstrip().endswith("newest: 4")
    assert "20260601T120030Z.csv (newest: 4)" in caplog.text


def test_the_command_prunes_or_says_what_it_would(made: World) -> None:
    asks(made, "{newest: 4}")
    would = command("exports", "prune", "--dry-run")
    assert "bazaar: 1 file would be deleted" in would.stdout
    assert len(older(made)) == 4
    assert "bazaar: 1 file deleted" in command("exports", "prune").stdout
    assert len(older(made)) == 3


def test_files_of_an_export_that_left_the_yaml_go_on_request(made: World) -> None:
    asks(made, "{newest: 4}")
    yaml = made.root / "markets" / "bazaar.yaml"
    yaml.write_text(yaml.read_text().replace("current:", "renamed:"))
    assert "1 file of exports that no YAML names any more; --orphans deletes them" in command("exports", "prune").stdout
    assert "bazaar: 5 files would be deleted" in command("exports", "prune", "--orphans", "--dry-run").stdout
    assert current(made).exists()
    before = version(made)
    assert "bazaar: 5 files deleted" in command("exports", "prune", "--orphans").stdout
    assert not current(made).exists()
    assert older(made) == []
    assert version(made) > before
    assert "bazaar/current/candles/BTC-USD_m15.csv," in (older_folder(made.settings.exports_dir) / RECORD).read_text()
    assert command("exports", "prune", "--orphans").stdout == "bazaar: 0 files deleted\n"


def test_versions_of_one_second_are_all_kept_in_their_order(new_world: World) -> None:
    asks(new_world, "{newest: 100}")
    contents = []
    for number in range(4):
        again(new_world, number)
        contents.append(current(new_world).read_bytes())
        os.utime(current(new_world), (NOW.timestamp(), NOW.timestamp()))
    kept = older_files(new_world.settings.exports_dir, NAME)
    assert [copy.path.read_bytes() for copy in kept] == contents[2::-1]
    assert [copy.path.name.split(".")[1] for copy in kept] == [f"20260601T120030Z{end}" for end in ("-3", "-2", "")]


def test_a_folder_is_listed_once_and_a_file_is_read_only_before_a_copy_of_it_goes(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, read = [], []
    listing, reading = export_retention._listed, export_retention.is_as_written
    monkeypatch.setattr(export_retention, "_listed", lambda folder: listed.append(folder) or listing(folder))
    monkeypatch.setattr(
        export_retention, "is_as_written", lambda root, file: read.append(root / file.path) or reading(root, file)
    )
    exported(made, NOW + timedelta(days=ROUNDS))
    asks(made, "{newest: 100}")
    assert pruned(made) == {}
    assert (len(listed), read) == (1, [])
    asks(made, "{newest: 2}")
    assert len(pruned(made)) == 3
    assert (len(listed), read) == (2, [current(made)])


def test_a_record_that_cannot_be_written_stops_no_deletion(made: World, caplog: pytest.LogCaptureFixture) -> None:
    asks(made, "{newest: 3}")
    (older_folder(made.settings.exports_dir) / RECORD).mkdir()
    pruned(made)
    assert older(made) == ["4", "3"]
    assert "not recorded" in caplog.text


# ---- duplicates


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Three files of one content, two of another, one by itself; two empty ones."""
    contents = {"a.csv": "same", "b/c.csv": "same", "b/d.csv": "same", "e": "two!", "f": "two!", "g": "lone"}
    for name, content in {**contents, "h": "", "i": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def names(root: Path) -> list[list[str]]:
    return [[str(path.relative_to(root)) for path in group.paths] for group in find_duplicates(root)]


def test_files_of_one_content_are_found_what_takes_most_room_first(twins: Path) -> None:
    assert names(twins) == [["a.csv", "b/c.csv", "b/d.csv"], ["e", "f"]]
    assert [group.spare_bytes for group in find_duplicates(twins)] == [8, 4]


def test_linked_they_are_one_file_until_one_of_them_is_written_anew(twins: Path) -> None:
    first = find_duplicates(twins)[0]
    assert link(first) == 2
    assert (twins / "a.csv").samefile(twins / "b/d.csv")
    again = find_duplicates(twins)
    assert [(group.links, group.spare_bytes) for group in again if "a.csv" in str(group.paths)] == [(2, 0)]
    assert link(first) == 0
    (twins / "new").write_text("else")
    (twins / "new").replace(twins / "a.csv")
    assert (twins / "b/c.csv").read_text() == "same"


def test_removed_are_those_that_nobody_needs_and_one_always_stays(twins: Path) -> None:
    first, second = find_duplicates(twins)
    assert remove(first, needed={twins / "b/c.csv"}) == [twins / "a.csv", twins / "b/d.csv"]
    assert remove(second, needed=()) == [twins / "f"]
    assert names(twins) == []
    assert (twins / "e").exists()


def test_the_command_lists_links_and_removes(made: World) -> None:
    asks(made, "{newest: 100}")
    spare = current(made).with_name("copy.csv")
    spare.write_bytes(current(made).read_bytes())
    listed = command("exports", "duplicates")
    assert f"{len(spare.read_bytes()):,} bytes to spare" in listed.stdout
    assert command("exports", "duplicates", "--link", "--remove").exit_code == 2
    assert "linked: 1" in command("exports", "duplicates", "--link").stdout
    assert spare.samefile(current(made))
    assert f"deleted: {spare}" in command("exports", "duplicates", "--remove").stdout
    assert current(made).exists()
