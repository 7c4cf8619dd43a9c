"""What one is told where a destination or a format needs a package that is not installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.destinations.paths import WrongDestination
from refresh_pipeline.destinations.registry import open_destination, open_redis
from refresh_pipeline.files.writer import ExportError, write_table
from refresh_pipeline.market.destination_spec import ObjectStoreSpec, RedisSpec
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.pipeline.export import check_exports


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if none of them had been installed."""
    for name in ("obstore", "redis", "arro3.io"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("object_store", "redis"):
        monkeypatch.delitem(sys.modules, f"refresh_pipeline.destinations.{name}", raising=False)


@pytest.mark.usefixtures("without_extras")
def test_a_destination_names_the_extra_that_it_needs() -> None:
    with pytest.raises(WrongDestination, match=r"'lake' needs a package .*pip install .*\[s3\]"):
        open_destination(ObjectStoreSpec(name="lake", kind="s3", bucket="b"), {}, default_folder=Path("unused"))
    with pytest.raises(WrongDestination, match=r"pip install .*\[redis\]"):
        open_redis(RedisSpec(name="cache", kind="redis"), {})


@pytest.mark.usefixtures("without_extras")
def test_feather_names_its_extra_when_the_market_is_loaded_and_when_a_file_is_written(tmp_path: Path) -> None:
    market = parse_market(
        "{name: x, source: {kind: demo}, calendar: crypto, instruments: [A], timeframes: [m1], history: 1d, "
        "exports: {all: {formats: feather}}}",
        file="x.yaml",
    )
    with pytest.raises(MarketError, match=r"market 'x': exports.all: .*pip install .*\[feather\]"):
        check_exports(market)
    with pytest.raises(ExportError, match=r"pip install .*\[feather\]"):
        write_table({"close": np.zeros(2)}, tmp_path / "a.feather")
    assert list(tmp_path.iterdir()) == []
