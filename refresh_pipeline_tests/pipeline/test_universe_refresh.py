"""`refresh universe`, from lists on disk and lists on a loopback server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from refresh_pipeline.cli.app import app
from refresh_pipeline.market_files import CATALOG, load_markets
from refresh_pipeline.settings import load_settings
from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.market.test_universe import CONSTITUENTS, MASTER


class Publisher(LoopbackServer):
    """Who publishes both lists."""

    async def answer(self, request: web.Request) -> web.Response:
        """A list, or 404."""
        lists = {"/api-data/api-scrip-master.csv": MASTER, "/content/ind_nifty500list.csv": CONSTITUENTS}
        text = lists.get(request.path)
        return web.Response(status=404) if text is None else web.Response(text=text, content_type="text/csv")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        yield server


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "home").mkdir()
    (tmp_path / "markets").mkdir()
    with inside(tmp_path):
        os.environ["REFRESH_MARKETS_DIR"] = "markets"
        yield tmp_path


def refresh(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_universe_from_both_lists_takes_the_place_of_the_shipped_one(publisher: Publisher) -> None:
    master, listed = (f"{publisher.base_url}/{path}" for path in
                      ("api-data/api-scrip-master.csv", "content/ind_nifty500list.csv?v=2"))  # fmt: skip
    result = refresh("universe", "--market", "nse", "--scrip-master", master, "--constituents", listed)
    assert result.exit_code == 0, result.output
    assert Path("markets/nifty500.csv").read_text() == "symbol,security_id\nRELIANCE,2885\nTCS,11536\nABB,13\n"
    assert "3 instruments in markets/nifty500.csv" in result.output
    assert "removed (200): HDFCBANK" in result.output
    (market,) = load_markets(load_settings(enabled_markets="nse"))
    assert list(market.instruments) == ["RELIANCE", "TCS", "ABB"]
    assert [asked.query for asked in publisher.asked] == [{"v": "2"}, {}]
    assert os.listdir("markets") == ["nifty500.csv"]


def test_lists_may_be_files(here: Path) -> None:
    (here / "master.csv").write_text(MASTER)
    (here / "index.csv").write_text(f"\ufeff{CONSTITUENTS}")
    result = refresh("universe", "--scrip-master", "master.csv", "--constituents", "index.csv")
    assert result.exit_code == 0, result.output
    again = refresh("universe", "--scrip-master", "master.csv")
    assert again.exit_code == 0
    assert "added" not in again.output


def test_an_outage_is_waited_out_and_a_missing_list_told(publisher: Publisher, here: Path) -> None:
    (here / "index.csv").write_text(CONSTITUENTS)
    publisher.fail(Fault(503, "busy"))
    master = f"{publisher.base_url}/api-data/api-scrip-master.csv"
    assert refresh("universe", "--scrip-master", master, "--constituents", "index.csv").exit_code == 0
    before = Path("markets/nifty500.csv").read_text()
    result = refresh("universe", "--scrip-master", f"{publisher.base_url}/elsewhere.csv")
    assert result.exit_code == 1
    assert "/elsewhere.csv: HTTP 404" in " ".join(result.output.split())
    assert Path("markets/nifty500.csv").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scrip-master", "nowhere.csv"], "nowhere.csv"),
        (["--scrip-master", "wrong.csv"], "scrip master: found the columns a, b"),
        (["--market", "demo"], "found source demo, universe none"),
        (["--market", "nse,demo"], "--market: found nse,demo, allowed: one market"),
        (["--market", "moon"], "found 'moon'"),
    ],
)
def test_a_wrong_request_writes_nothing(here: Path, arguments: list[str], words: str) -> None:
    (here / "wrong.csv").write_text("a,b\n1,2\n")
    result = refresh("universe", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert os.listdir("markets") == []


def test_without_a_folder_of_the_users_own_the_shipped_universe_is_not_touched(here: Path) -> None:
    (here / "master.csv").write_text(MASTER)
    shipped = (CATALOG / "nifty500.csv").read_text()
    del os.environ["REFRESH_MARKETS_DIR"]
    result = refresh("universe", "--scrip-master", "master.csv")
    assert result.exit_code == 2
    assert "REFRESH_MARKETS_DIR: found nothing" in " ".join(result.output.split())
    assert (CATALOG / "nifty500.csv").read_text() == shipped


def test_a_list_that_is_no_text_is_told(here: Path) -> None:
    (here / "master.csv").write_bytes(b"\xff\xfe\x00")
    result = refresh("universe", "--scrip-master", "master.csv")
    assert result.exit_code == 1
    assert "expected text in UTF-8" in " ".join(result.output.split())
