"""Export files read to their last row: what is wrong with them is found, and nothing is found where nothing is."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refresh_pipeline.pipeline.export_verification import verify
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, LATER, World, command
from refresh_pipeline_tests.step_helpers import BTC, ETH, computed, exported, fetched

EXPORTS = (
    "exports: {current: {layout: fx_refresh, window: {last: 30}}, "
    "full: {layers: [candles, indicators, joined], formats: [csv, parquet, json, feather]}, "
    "lake: {layout: hive}}\n"
)
CANDLES = "bazaar/full/candles/BTC-USD_m15"


@pytest.fixture(scope="module")
def once(founded: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with files of every kind of two series; to be copied."""
    world = founded.copied(tmp_path_factory.mktemp("once") / "world")
    (world.root / "markets" / "bazaar.yaml").write_text(FEW_INDICATORS + EXPORTS)
    with inside(world.root):
        fetched(world, batch=[BTC, ETH])
        computed(world, [BTC, ETH])
        exported(world, batch=[BTC, ETH])
    return world


@pytest.fixture
def made(once: World, tmp_path: Path) -> Iterator[World]:
    """A copy of it, and this process inside."""
    world = once.copied(tmp_path / "world")
    with inside(world.root):
        yield world


def found(world: World) -> list[str]:
    return [f"{fault.series}: {fault.what}" for fault in checked(world)[1]]


def checked(world: World) -> tuple[int, list]:
    return verify(world.warehouse, world.market, world.settings.exports_dir, world.market.series)


def test_files_as_they_were_written_have_no_faults(made: World) -> None:
    assert checked(made) == (30, [])


def test_a_file_that_is_too_long_for_memory_is_read_by_groups_of_columns(made: World) -> None:
    few = {"cells_at_once": 4_000}
    root, series = made.settings.exports_dir, made.market.series
    assert verify(made.warehouse, made.market, root, series, **few) == (30, [])
    made.change("update bazaar.indicators set sma_10 = sma_10 + 1e-9 where instrument = 'ETH/USD'")
    faults = verify(made.warehouse, made.market, root, series, **few)[1]
    assert len(faults) == 9
    assert all("sma_10" in fault.what for fault in faults)
    assert not root.with_name("exports-staged").exists()


def test_files_of_a_series_that_changed_since_are_not_held_against_the_table(made: World) -> None:
    fetched(made, LATER, [BTC])
    computed(made, [BTC])
    assert checked(made) == (30, [])


def lines_changed(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return spoil


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "gone": (Path.unlink, "the file is gone"),
    "a column less": (lines_changed(lambda lines: [line.rpartition(",")[0] for line in lines]), "lacks volume"),
    "a column more": (lines_changed(lambda lines: [f"{line},x" for line in lines]), "has x besides"),
    "rows missing": (lines_changed(lambda lines: lines[:50]), "49 rows, 96 were written"),
    "rows turned round": (lines_changed(lambda lines: [lines[0], *lines[:0:-1]]), "row 2 does not follow"),
    "a row twice": (lines_changed(lambda lines: [*lines, lines[-1]]), "57 bytes behind the recorded ones"),
    "the first row twice": (
        lines_changed(lambda lines: [*lines[:2], *lines[1:]]),
        "row 2 does not follow",
    ),
    "text for a number": (lines_changed(lambda lines: [*lines[:-1], lines[-1] + "x"]), "not readable"),
    "the last row high below low": (
        lines_changed(lambda lines: [*lines[:-1], "2026-06-01T11:45:00Z,5,4,6,5,1"]),
        "row 96 of 1 bad: high is below low",
    ),
    "one digit of the last row": (
        lines_changed(lambda lines: [*lines[:-1], lines[-1][:-1] + "9"]),
        "volume in row 96",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_csv_file_that_somebody_spoiled_is_found_to_its_last_row(case: str, made: World) -> None:
    spoil, words = SPOILED[case]
    spoil(made.settings.exports_dir / f"{CANDLES}.csv")
    faults = found(made)
    assert any(words in fault for fault in faults), faults
    assert {fault.partition(":")[0] for fault in faults} == {"BTC/USD m15"}


@pytest.mark.parametrize("ending", ["parquet", "json", "feather"])
def test_a_file_of_another_format_that_is_cut_off_is_found(ending: str, made: World) -> None:
    path = made.settings.exports_dir / f"{CANDLES}.{ending}"
    path.write_bytes(path.read_bytes()[:200])
    assert [fault for fault in found(made) if "not readable" in fault or "columns differ" in fault]


def test_a_table_that_changed_behind_the_files_is_found_in_every_format(made: World) -> None:
    made.change("update bazaar.indicators set sma_10 = sma_10 + 1e-9 where instrument = 'ETH/USD'")
    faults = found(made)
    assert len(faults) == 9
    assert all("sma_10" in fault and "ETH/USD" in fault for fault in faults)


def test_the_command_says_what_is_wrong_and_ends_with_one(made: World) -> None:
    good = command("exports", "verify")
    assert (good.exit_code, good.stdout) == (0, "bazaar: 30 files read, 0 faults\n")
    (made.settings.exports_dir / f"{CANDLES}.csv").unlink()
    bad = command("exports", "verify", "-i", "btcusd")
    assert bad.exit_code == 1
    assert "bazaar BTC/USD m15: bazaar/full/candles/BTC-USD_m15.csv: the file is gone" in bad.stdout
    assert command("exports", "verify", "-i", "ethusd").exit_code == 0
    assert command("exports", "verify", "-i", "nothing").exit_code == 2


def test_without_any_file_there_is_nothing_to_find(new_world: World) -> None:
    assert command("exports", "verify").stdout == "bazaar: 0 files read, 0 faults\n"
