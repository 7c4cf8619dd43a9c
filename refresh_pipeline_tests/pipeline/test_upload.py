"""What becomes of export files at a destination: over real files, a real warehouse, a real folder."""

import shutil
from pathlib import Path

from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline_tests.project_folder import LATER, World
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
