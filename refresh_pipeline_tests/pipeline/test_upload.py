"""What becomes of export files at a destination: over real files, a real warehouse, a real folder."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

from refresh_pipeline.monitoring.problems import series_problems
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline_tests.project_folder import (
    EXPORTS,
    FEW_INDICATORS,
    LATER,
    NOW,
    World,
    command,
    metadata_of,
    verdicts_of,
)
from refresh_pipeline_tests.step_helpers import BTC, SOL, outcomes, published, uploaded


def test_every_file_arrives_and_has_its_row(new_world: World) -> None:
    published(new_world)
    done = uploaded(new_world)
    assert [(a.outcome, a.metadata["files_sent"]) for a in done.values()] == [(Outcome.updated, 2)] * 3
    there = {
        path.relative_to(new_world.root / "there"): path.read_bytes()
        for path in (new_world.root / "there").rglob("*.*")
    }
    assert {str(name): content for name, content in there.items()} == {
        name: content for name, (content, _) in new_world.files("exports").items()
    }
    rows = new_world.query("select path, url, bytes, sha256, content_hash, hash_name from bazaar.uploads order by path")
    assert [row[0] for row in rows] == sorted(new_world.files("exports"))
    assert all(row[1].startswith("file://") and row[3] == row[4] and row[5] == "sha256" for row in rows)


def test_what_is_there_already_is_not_sent_and_its_row_stays_as_it_is(new_world: World) -> None:
    published(new_world)
    uploaded(new_world)
    before = new_world.tables()["bazaar.uploads"]
    again = uploaded(new_world, LATER)
    assert [(a.outcome, a.metadata["files_unchanged"]) for a in again.values()] == [(Outcome.unchanged, 2)] * 3
    assert new_world.tables()["bazaar.uploads"] == before


def test_what_vanished_there_is_sent_again(new_world: World) -> None:
    published(new_world)
    uploaded(new_world)
    shutil.rmtree(new_world.root / "there" / "bazaar")
    assert {a.metadata["files_sent"] for a in uploaded(new_world, LATER).values()} == {2}


def test_a_file_that_does_not_arrive_fails_its_series_alone(new_world: World) -> None:
    published(new_world)
    in_the_way: Path = new_world.root / "there" / "bazaar" / "SOL-USD_m15.csv"
    in_the_way.mkdir(parents=True)
    done = uploaded(new_world)
    assert outcomes(done) == [Outcome.updated, Outcome.updated, Outcome.failed]
    assert "bazaar/SOL-USD_m15.csv" in str(done[SOL].reason)
    assert new_world.query("select count(*) from bazaar.uploads") == [(5,)]


def test_an_export_that_was_lost_is_told_and_the_others_arrive(new_world: World) -> None:
    published(new_world)
    (new_world.settings.exports_dir / "bazaar" / "BTC-USD_m15.parquet").unlink()
    done = uploaded(new_world)
    assert outcomes(done) == [Outcome.failed, Outcome.updated, Outcome.updated]
    assert "nothing to upload" in str(done[BTC].reason)


def test_a_series_that_was_never_exported_has_nothing_to_upload(new_world: World) -> None:
    new_world.warehouse.prepare(new_world.market)
    assert outcomes(uploaded(new_world)) == [Outcome.no_data] * 3


# ---- uploads that are off


def turn_off(world: World) -> None:
    (world.root / "markets" / "bazaar.yaml").write_text(FEW_INDICATORS + EXPORTS)


def test_until_a_destination_is_named_nothing_is_copied_and_nothing_is_wrong(new_world: World) -> None:
    turn_off(new_world)
    new_world.run("refresh")
    published = new_world.run("publish")
    assert published.success
    assert verdicts_of(published)["uploads_match_the_exports"]
    said = metadata_of(published, "uploads")
    assert len(said) == 8
    assert all("set REFRESH_UPLOAD_URL=" in entry["uploads"] for entry in said.values())
    assert sorted(path.name for path in (new_world.root / "data").iterdir()) == ["exports", "refresh.duckdb"]
    assert new_world.query("select count(*) from bazaar.uploads") == [(0,)]
    assert series_problems(new_world.market, new_world.warehouse.series_status(new_world.market), NOW) == []
    assert command("status", "--failed", "--now", NOW.isoformat()).stdout == "No series failed or lacks candles.\n"


def test_one_setting_turns_uploads_on(new_world: World) -> None:
    turn_off(new_world)
    new_world.run("refresh")
    new_world.run("publish")
    with (new_world.root / ".env").open("a") as settings:
        settings.write(f"REFRESH_UPLOAD_URL=file://{new_world.root}/there\n")
    published = new_world.run("publish", now=LATER)
    assert {entry["files_sent"] for entry in metadata_of(published, "uploads").values()} == {2}
    assert new_world.query("select count(*) from bazaar.uploads") == [(16,)]


def test_what_was_uploaded_before_stays_and_is_told(world: World) -> None:
    before, rows = world.files("uploads"), world.tables()["bazaar.uploads"]
    turn_off(world)
    world.run("refresh", now=LATER)
    published = world.run("publish", now=LATER)
    assert published.success
    assert verdicts_of(published)["uploads_match_the_exports"]
    assert (world.files("uploads"), world.tables()["bazaar.uploads"]) == (before, rows)
    folder = world.root / "data" / "uploads"
    status = command("status", "--now", (LATER + timedelta(minutes=1)).isoformat())
    assert "uploads off, no destination is named: set REFRESH_UPLOAD_URL=" in status.stdout
    assert f"{folder} holds files of earlier uploads" in status.stderr
    assert f"set REFRESH_UPLOAD_URL={folder.as_uri()} to go on" in " ".join(status.stderr.split())
    doctor = command("doctor", "--offline")
    assert doctor.exit_code == 0
    assert "holds files of earlier uploads" in " ".join(doctor.stdout.split())


def test_a_failure_of_uploads_is_over_once_they_are_off(world: World) -> None:
    os.environ["REFRESH_UPLOAD_URL"] = "file:///proc/nowhere"
    world.run("refresh", now=LATER)
    world.run("publish", now=LATER)
    assert [each.kind for each in series_problems(world.market, world.warehouse.series_status(world.market), LATER)]
    turn_off(world)
    del os.environ["REFRESH_UPLOAD_URL"]
    world.run("publish", now=LATER)
    assert series_problems(world.market, world.warehouse.series_status(world.market), LATER) == []
