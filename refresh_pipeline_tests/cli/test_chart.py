"""`refresh chart`: candles in the terminal, as a picture, in the dashboard."""

from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.cli.terminal_chart import draw
from refresh_pipeline_tests.project_folder import World, command


def test_a_candle_is_drawn_from_low_to_high_with_its_body() -> None:
    rows = {
        "open_time": np.array(["2026-06-01T00:00", "2026-06-01T01:00"], dtype="datetime64[us]"),
        "open": np.array([10.0, 30.0]),
        "high": np.array([40.0, 30.0]),
        "low": np.array([10.0, 0.0]),
        "close": np.array([30.0, 10.0]),
    }
    lines = draw(rows, height=2)
    # Four half lines: 40, 26.7, 13.3 and 0. The first rose to 30 with a wick to 40, the second fell to 10.
    assert [line.plain[:2] for line in lines[:2]] == ["╽╻", "╹╿"]
    assert lines[0].spans[0].style == "green"
    assert lines[0].spans[1].style == "red"
    assert lines[0].plain.endswith("40.00000")
    assert lines[2].plain.split() == ["2026-06-01", "00:00", "2026-06-01", "01:00"]


def test_candles_without_any_movement_are_a_line() -> None:
    flat = np.full(3, 5.0)
    times = np.arange(3).astype("datetime64[h]").astype("datetime64[us]")
    lines = draw({"open_time": times, "open": flat, "high": flat, "low": flat, "close": flat}, height=4)
    assert lines[0].plain.startswith("╹╹╹")


def test_the_terminal_shows_the_newest_candles_within_its_width(world: World) -> None:
    result = command("chart", "btcusd", "15m", "--bars", "40", "--height", "10")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("bazaar BTC/USD m15: 40 candles, UTC; close ")
    assert len(lines) == 12
    assert max(map(len, lines[1:])) <= 80
    assert lines[-1].endswith("2026-06-01 11:45")


def test_a_picture_is_a_png_file(world: World, tmp_path: Path) -> None:
    file = tmp_path / "chart.png"
    result = command("chart", "BTC/USD", "H1", "--png", str(file))
    assert result.exit_code == 0, result.output
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["BTC/USD", "H1"], 2, "refresh once creates it"),
        (["nope", "H1"], 2, "has no instrument 'nope'"),
        (["BTC/USD", "M1"], 2, "ambiguous"),
        (["BTC/USD,ETH/USD", "H1"], 2, "chart shows one series"),
        (["BTC/USD", "H7"], 2, "timeframe: unknown timeframe 'H7'"),
        (["BTC/USD", "H1", "--bars", "0"], 2, "--bars"),
    ],
)
def test_wrong_requests(new_world: World, arguments: list[str], code: int, words: str) -> None:
    result = command("chart", *arguments)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())
    # An argument is no option.
    assert "--timeframe" not in result.stderr


def test_a_series_without_candles_names_the_command_that_fetches_it(world: World) -> None:
    market = world.root / "markets" / "bazaar.yaml"
    market.write_text(market.read_text().replace("BTC/USD", "NEW/USD, BTC/USD"))
    result = command("chart", "NEW/USD", "H1")
    assert result.exit_code == 1
    assert "refresh once -m bazaar -i NEW/USD -t H1 fetches them" in " ".join(result.stderr.split())
