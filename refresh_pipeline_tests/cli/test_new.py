"""`refresh new`: a market of one's own, by questions or options, and nothing overwritten."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refresh_pipeline.cli.app import app
from refresh_pipeline.cli.new import VENUES
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.settings import load_settings
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import command


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "home").mkdir()
    with inside(tmp_path):
        yield tmp_path


@pytest.mark.parametrize("venue", [name for name in VENUES if name != "ccxt"])
def test_with_yes_every_venue_gives_a_market_that_loads_and_is_enabled(venue: str) -> None:
    result = command("new", "--yes", "--venue", venue)
    assert result.exit_code == 0, result.output
    settings = load_settings()
    assert settings.market_names == [VENUES[venue].name]
    [market] = load_markets(settings)
    assert market.source.kind == venue
    assert [timeframe.value for timeframe in market.timeframes] == ["m15", "H1", "D1"]
    assert Path(".env").stat().st_mode & 0o077 == 0


def test_options_say_what_questions_would_ask() -> None:
    options = ("--name", "coins", "--pairs", "ada/usdt, DOT/USDT", "--timeframes", "1h,D1", "--history", "90d")
    assert command("new", "--yes", "--venue", "binance", *options).exit_code == 0
    [market] = load_markets(load_settings())
    assert (market.name, list(market.instruments)) == ("coins", ["ada/usdt", "DOT/USDT"])
    assert {length.days for length in market.history.values()} == {90}


def test_it_asks_for_what_no_option_says() -> None:
    answers = "files\nmy folder: x\nshelf\nEUR/USD\nH1\n1y\n"
    result = CliRunner().invoke(app, ["new"], input=answers)
    assert result.exit_code == 0, result.output
    [market] = load_markets(load_settings())
    assert (market.name, market.source.options) == ("shelf", {"directory": "my folder: x"})


def test_each_wrong_answer_is_asked_for_again_at_once_and_without_answers_it_says_what_to_do() -> None:
    answers = ["binanse", "demo", "my coins", "demo", "again", "A B", "A/B;C/D", "A/B", "H1,bogus", "H1", "30", "9d"]
    result = CliRunner().invoke(app, ["new"], input="\n".join([*answers, ""]))
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    for sentence in (
        "did you mean 'binance'?",
        "found 'my coins'; allowed: lower-case letters, digits",
        "found 'demo', the name of a shipped market",
        "found ['A B']; 'A B' is no instrument name",
        "found 'A/B;C/D', allowed: a list with commas",
        "unknown timeframe 'bogus'",
        "found '30'; allowed: a whole number and m, h, d",
    ):
        assert sentence in said, said
    assert ".yaml:" not in said
    [market] = load_markets(load_settings())
    assert (market.name, list(market.instruments)) == ("again", ["A/B"])
    result = CliRunner().invoke(app, ["new"], input="")
    assert result.exit_code == 2
    assert "--venue: found no answer; give it as an option, or use --yes for the defaults" in " ".join(
        result.stderr.split()
    )
    assert "--timeframes: found ['x']; unknown timeframe" in command("new", "--yes", "--timeframes", "x").stderr


def test_nothing_is_overwritten() -> None:
    Path(".env").write_text("REFRESH_MARKETS=demo")
    assert command("new", "--yes", "--name", "first").exit_code == 0
    assert Path(".env").read_text() == "REFRESH_MARKETS=demo\nREFRESH_MARKETS_DIR=markets\n"
    before = Path("markets/first.yaml").read_text()
    result = command("new", "--yes", "--name", "first", "--pairs", "ETH/USD")
    assert result.exit_code == 2
    assert "exists; choose another name" in " ".join(result.stderr.split())
    assert Path("markets/first.yaml").read_text() == before


def test_it_says_how_to_enable_the_market_where_others_are() -> None:
    Path(".env").write_text("REFRESH_MARKETS=demo,crypto\n")
    result = command("new", "--yes", "--venue", "oanda")
    assert "Enable it in .env: REFRESH_MARKETS=demo,crypto,my_fx" in " ".join(result.stderr.split())
    assert "Put your OANDA_TOKEN into .env" in " ".join(result.stderr.split())
    assert "# OANDA_TOKEN=" in Path(".env").read_text().splitlines()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--venue", "nowhere"], "--venue: found 'nowhere', allowed: demo, binance"),
        (["--name", "My Market"], "--name: found 'My Market'"),
        (["--name", "demo"], "--name: found 'demo', the name of a shipped market"),
        (["--name", "../x"], "--name: found '../x'"),
        (["--pairs", ""], "--pairs: found []"),
        (["--timeframes", "M1"], "'M1' is ambiguous"),
        (["--history", "long"], "--history: found 'long'"),
        (["--calendar", "moon"], "--calendar: found 'moon'"),
    ],
)
def test_a_wrong_answer_is_named_and_nothing_is_written(options: list[str], words: str, here: Path) -> None:
    result = command("new", "--yes", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not (here / ".env").exists()
    assert not list(here.rglob("*.yaml"))
