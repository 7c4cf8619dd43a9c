"""`refresh_pipeline.notebook`: stored rows as frames, known from their close, joined without look-ahead."""

import re
from pathlib import Path

import pandas as pd
import pytest

from refresh_pipeline.client import connect
from refresh_pipeline.client.errors import ClientError
from refresh_pipeline.notebook import candles, joined_as_of
from refresh_pipeline.warehouse.connection import WarehouseUnreadable
from refresh_pipeline_tests.project_folder import World

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_a_series_is_a_frame_with_the_close_of_each_bar(world: World) -> None:
    frame = candles("bazaar", "btcusd", "1h", since="2026-06-01T00:00", until="2026-06-01T03:00")
    assert list(frame.index) == list(pd.date_range("2026-06-01", periods=3, freq="h", tz="UTC"))
    assert list(frame["close_time"]) == list(pd.date_range("2026-06-01 01:00", periods=3, freq="h", tz="UTC"))
    assert frame["close"].tolist() == [
        close
        for (close,) in world.query(
            "select close from bazaar.raw_candles where instrument = 'BTC/USD' and timeframe = 'H1' "
            "and open_time >= '2026-06-01' and open_time < '2026-06-01 03:00' order by open_time"
        )
    ]
    assert "sma_10" in candles("bazaar", "BTC/USD", "m15", layer="indicators")


def test_a_longer_bar_is_joined_from_its_close_on(world: World) -> None:
    quarters, hours = (candles("bazaar", "BTC/USD", timeframe) for timeframe in ("m15", "H1"))
    both = joined_as_of(quarters, hours, "_h1")
    assert list(both.index) == list(quarters.index)
    assert (both["close_time_h1"].dropna() <= both.loc[both["close_time_h1"].notna(), "close_time"]).all()
    row = both.loc["2026-06-01 10:45+00:00"]
    assert row["close_h1"] == hours.loc["2026-06-01 10:00+00:00", "close"]
    assert both.loc["2026-06-01 10:30+00:00", "close_h1"] == hours.loc["2026-06-01 09:00+00:00", "close"]


def test_cutting_the_future_off_changes_no_joined_row(world: World) -> None:
    quarters, hours = (candles("bazaar", "BTC/USD", timeframe) for timeframe in ("m15", "H1"))
    cut = pd.Timestamp("2026-06-01 06:30", tz="UTC")
    known = joined_as_of(quarters.loc[quarters["close_time"] <= cut], hours.loc[hours["close_time"] <= cut])
    pd.testing.assert_frame_equal(known, joined_as_of(quarters, hours).loc[known.index])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope", "BTC/USD", "H1"), "market: found 'nope'"),
        (("bazaar", "nope", "H1"), "no instrument 'nope'"),
        (("bazaar", "BTC/USD", "M1"), "ambiguous"),
        (("bazaar", "BTC/USD", "H1", "prices"), "layer: found 'prices'"),
    ],
)
def test_wrong_names_are_answered_in_words(world: World, arguments: tuple[str, ...], words: str) -> None:
    market, instrument, timeframe, *layer = arguments
    with pytest.raises(ValueError, match=words):
        candles(market, instrument, timeframe, layer=layer[0] if layer else "candles")
    with pytest.raises(ValueError, match="close_time"):
        joined_as_of(pd.DataFrame(), pd.DataFrame())


@pytest.mark.parametrize("page", ["notebook", "client", "enhanced-candles"])
def test_the_pages_snippets_run_as_they_stand(world: World, page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    # The market here has other names than the demo, and a history that ends in June.
    for name, other in (("demo", "bazaar"), ("EUR", "ETH"), ("2026-11-01", "2026-06-01")):
        text = text.replace(name, other)
    names: dict[str, object] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
        exec(snippet, names)


def test_wrong_bounds_are_answered_in_words(world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="since: found 'x', allowed: ISO 8601"):
        candles("bazaar", "BTC/USD", "H1", since="x")
    with pytest.raises(ValueError, match="since 2026-06-02 is not before until 2026-06-01"):
        candles("bazaar", "BTC/USD", "H1", since="2026-06-02", until="2026-06-01")
    with pytest.raises(WarehouseUnreadable, match=r"refresh.duckdb: not found; refresh once creates it"):
        candles("bazaar", "BTC/USD", "H1", data_dir=str(tmp_path / "nowhere"))
    client = connect(world.settings.data)
    with pytest.raises(ClientError, match="limit: found -1, allowed: 1 or more"):
        client.candles("BTC/USD", "H1", limit=-1)
    with pytest.raises(ClientError, match="since 2026-06-02 00:00 is not before until 2026-06-01 00:00"):
        client.candles("BTC/USD", "H1", since="2026-06-02", until="2026-06-01")
