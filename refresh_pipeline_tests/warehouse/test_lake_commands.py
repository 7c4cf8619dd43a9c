"""A refresh and the commands around it on a lake: what they store and say is what they do on a file."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.lake_server import address_in, of_a_lake
from refresh_pipeline_tests.project_folder import LATER, World, command, failures_of

pytestmark = of_a_lake
# What each warehouse has of its own: numbers of changes, runs, moments of storing, and folders.
OF_ITS_OWN = re.compile(r".*version|epoch|run_id|id|.*_at|.*_on|written|seconds|url")


@dataclass
class Told:
    """The tables after a refresh and publishing, and what commands said of them."""

    tables: dict[str, tuple[list[str], list[tuple]]]
    said: dict[str, Result]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Told]:
    """Of the same market at the same instants: of a file, and of a lake."""
    root = tmp_path_factory.mktemp("places")
    return refreshed(root / "file", ""), refreshed(root / "lake", address_in(root))


def refreshed(root: Path, lake: str) -> Told:
    world = World.founded(root)
    world.write_candles("ETH/USD|m15", without=["2026-06-01T03:00:00", "2026-06-01T03:15:00"])
    with inside(root):
        if lake:
            os.environ["REFRESH_WAREHOUSE"] = lake
        for name in ("refresh", "publish"):
            assert failures_of(world.run(name, now=LATER)) == {}
        said = {
            " ".join(each): command(*each)
            for each in (
                ("gaps", "--json", "--now", LATER.isoformat()),
                ("status", "--json", "--now", LATER.isoformat()),
                ("exports", "verify"),
                ("maintain",),
                ("backup",),
                ("snapshot",),
            )
        }
        return Told(tables_of(world.settings.warehouse), said)


def tables_of(address: str) -> dict[str, tuple[list[str], list[tuple]]]:
    """The columns that both places share, and the rows, of each table of the market."""
    with connect(address, read_only=True, patience=30) as connection:
        names = connection.execute(
            "select table_name, list(column_name order by column_index) from duckdb_columns() "
            "where schema_name = 'bazaar' and database_name = current_database() group by 1 order by 1"
        ).fetchall()
        shared = {table: [each for each in columns if not OF_ITS_OWN.fullmatch(each)] for table, columns in names}
        return {
            table: (
                columns,
                connection.execute(f"select {', '.join(columns)} from bazaar.{table} order by all").fetchall(),
            )
            for table, columns in shared.items()
            if columns
        }


def test_a_refresh_leaves_the_same_rows_in_every_table(told: tuple[Told, Told]) -> None:
    file, lake = (each.tables for each in told)
    assert file.keys() == lake.keys()
    assert len(file["raw_candles"][1]) > 400
    assert len(file["indicators"][1]) == len(file["raw_candles"][1])
    for table, (columns, rows) in file.items():
        assert lake[table][0] == columns, table
        assert len(lake[table][1]) == len(rows), table
        for ours, theirs in zip(rows, lake[table][1], strict=True):
            assert split(ours)[0] == split(theirs)[0], table
            assert split(ours)[1] == pytest.approx(split(theirs)[1], rel=1e-9, nan_ok=True), table


def split(row: tuple) -> tuple[list[Any], list[float]]:
    """What must be the same, and numbers that may differ in their last digits."""
    return [v for v in row if not isinstance(v, float)], [v for v in row if isinstance(v, float)]


def test_commands_say_of_a_lake_what_they_say_of_a_file(told: tuple[Told, Told]) -> None:
    file, lake = (each.said for each in told)
    for name in file:
        if name in ("backup", "snapshot", "maintain"):
            continue
        assert (lake[name].exit_code, plain(lake[name].output)) == (file[name].exit_code, plain(file[name].output)), (
            name
        )
    assert "ETH/USD" in file[next(iter(file))].output
    assert (lake["maintain"].exit_code, file["maintain"].exit_code) == (0, 0)


def plain(output: str) -> Any:
    """What was said, without what the moment makes of it."""
    try:
        rows = json.loads(output)
    except ValueError:
        return re.sub(r"\d+\.\d+ s|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?Z?", "", output)
    return without_moments(rows)


def without_moments(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_moments(each) for name, each in value.items() if not OF_ITS_OWN.fullmatch(name)}
    return [without_moments(each) for each in value] if isinstance(value, list) else value


def test_what_a_lake_has_in_another_way_is_refused_with_the_reason(told: tuple[Told, Told]) -> None:
    said = told[1].said
    assert said["backup"].exit_code != 0
    assert "pg_dump" in said["backup"].output
    assert said["snapshot"].exit_code != 0
    assert "let them read the lake" in " ".join(said["snapshot"].output.split())
