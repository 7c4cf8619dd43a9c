"""The Python client gives the same tables from a data folder and from an API."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import refresh_pipeline
from refresh_pipeline.client import Client, ClientError, connect
from refresh_pipeline.client import server as client_server
from refresh_pipeline.warehouse.connection import connect as opened
from refresh_pipeline_tests.api.served import BTC, NOW, Shop, served
from refresh_pipeline_tests.apis.api_server import api_server
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.warehouse.warehouse_fixtures import flat, opens

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "client.ipynb"
LATER = NOW + timedelta(hours=1)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Candles of two series, of which one was corrected an hour later."""
    shop = Shop.stocked(tmp_path_factory.mktemp("shop"))
    shop.refresh({BTC: flat(7.0, 3)}, LATER)
    return shop


@pytest.fixture(scope="module")
def folder(shop: Shop) -> Client[pd.DataFrame]:
    """A client of the folder."""
    return connect(shop.settings.data)


@pytest.fixture(scope="module")
def server(shop: Shop) -> Iterator[Client[pd.DataFrame]]:
    """A client of an API over the same folder."""
    with served(shop) as http:
        yield connect(str(http.base_url))


QUESTIONS: list[dict[str, Any]] = [
    {},
    {"limit": 5},
    {"since": "2024-01-01T01:00Z", "limit": 3},
    {"since": datetime(2024, 1, 1, 1, tzinfo=UTC), "until": "2024-01-01T02:00Z"},
    {"until": "2024-01-01T02:00", "limit": 4, "columns": ["close", "high"]},
    {"since": "2030-01-01T00:00Z"},
]


@pytest.mark.parametrize("asked", QUESTIONS, ids=str)
def test_a_folder_and_an_api_give_the_same_candles(folder: Client[Any], server: Client[Any], asked: dict[str, Any]):
    here, there = (client.candles("btc-usd", "5m", market="fair", **asked) for client in (folder, server))
    pd.testing.assert_frame_equal(here, there, check_dtype=bool(len(here)))


def test_computed_tables_are_the_same_and_longer_ones_come_by_pages(folder: Client[Any], server: Client[Any]):
    for layer in ("enhanced", "indicators"):
        here, there = (getattr(client, layer)("BTC/USD", "m5") for client in (folder, server))
        assert len(here) == 1200
        pd.testing.assert_frame_equal(here, there, check_dtype=False)


def test_rows_are_those_of_the_table(shop: Shop, folder: Client[Any]):
    frame = folder.candles("BTC/USD", "m5", limit=1000)
    with opened(str(shop.settings.database), read_only=True) as connection:
        rows = connection.execute(
            "select open_time, close from fair.raw_candles where instrument = 'BTC/USD' order by 1 desc limit 1000"
        ).fetchall()
    assert [moment.tz_localize(None).to_pydatetime() for moment in frame.index] == [row[0] for row in rows[::-1]]
    assert frame["close"].tolist() == [row[1] for row in rows[::-1]]
    assert str(frame.index.dtype) == "datetime64[us, UTC]"


def test_candles_as_of_an_instant_are_as_they_stood(folder: Client[Any], server: Client[Any]):
    corrected, moment = opens(4)[3], NOW + timedelta(minutes=1)
    for client in (folder, server):
        now, then = client.candles("BTC/USD", "m5"), client.as_of("BTC/USD", "m5", moment)
        assert now.loc[pd.Timestamp(corrected, tz="UTC"), "close"] == 7.0
        assert then.loc[pd.Timestamp(corrected, tz="UTC"), "close"] != 7.0
        assert len(client.as_of("BTC/USD", "m5", moment, limit=2)) == 2
        assert client.as_of("BTC/USD", "m5", "2024-01-01T00:00Z").empty


def test_changes_are_told_once(shop: Shop, folder: Client[Any], server: Client[Any]):
    before = folder.changes()
    there = server.changes().changes.assign(changed_at=before.changes["changed_at"])
    pd.testing.assert_frame_equal(before.changes, there)
    assert server.changes(before.version, epoch=before.epoch).changes.empty
    assert set(before.changes["asset"]) == {"raw_candles", "enhanced_candles", "indicators", "exports"}
    assert folder.changes(before.version, epoch=before.epoch).changes.empty
    shop.refresh({BTC: flat(8.0, 5)}, LATER)
    after = folder.changes(before.version, epoch=before.epoch)
    assert set(after.changes["instrument"]) == {"BTC/USD"}
    assert not after.reset
    assert folder.changes(after.version, epoch="another").reset


def test_series_and_gaps_are_listed(folder: Client[Any], server: Client[Any]):
    for client in (folder, server):
        listed = client.series("fair")
        series = listed[listed["timeframe"] == "m5"].set_index("instrument")
        assert series.loc["BTC/USD", "candle_count"] == 1200
        assert series.loc["BTC/USD", "first_open_time"] == pd.Timestamp(opens(1)[0], tz="UTC")
    columns = ["market", "instrument", "timeframe", "first_open_time", "last_open_time", "candles"]
    assert list(folder.gaps("fair")) == list(server.gaps("fair")) == columns
    assert len(folder.gaps("fair")) == len(server.gaps("fair"))


def test_a_wrong_question_is_answered_in_words(folder: Client[Any], server: Client[Any], tmp_path: Path):
    for client in (folder, server):
        with pytest.raises(ClientError, match="DOGE"):
            client.candles("DOGE/USD", "m5")
        with pytest.raises(ClientError, match="columns: found 'closing'"):
            client.candles("BTC/USD", "m5", columns=["closing"])
        with pytest.raises(ClientError, match="since: found 'yesterday'"):
            client.candles("BTC/USD", "m5", since="yesterday")
        with pytest.raises(ClientError, match="nowhere"):
            client.candles("BTC/USD", "m5", market="nowhere")
    with pytest.raises(ClientError, match="wanted a data folder or a URL"):
        connect(tmp_path)
    with pytest.raises(ClientError, match="does not answer"):
        connect("http://127.0.0.1:9").series()
    with pytest.raises(ClientError, match="allowed: pandas, polars, arrow"):
        connect(tmp_path, frames="excel")  # type: ignore[call-overload]


def test_a_busy_api_is_asked_again_within_bounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_server, "PATIENCE", 0.35)
    statuses = iter((503, 429, 200))
    with api_server() as api:
        client = connect(api.url)
        api.answers["/api/v1/gaps"] = lambda _: (next(statuses), {"Retry-After": "0"}, b'{"series": []}')
        assert len(client.gaps()) == 0
        api.says("/api/v1/gaps", '{"title": "Busy", "detail": "a writer"}', 503, Retry_After="0")
        asked = len(api.asked)
        with pytest.raises(ClientError, match="Busy: a writer"):
            client.gaps()
        assert len(api.asked) - asked == 4
        api.says("/api/v1/gaps", "", 503, Retry_After="60")
        with pytest.raises(ClientError):
            client.gaps()
        assert len(api.asked) - asked == 5


def test_arrow_tables_hold_the_same_values(shop: Shop, folder: Client[Any]):
    table = connect(shop.settings.data, frames="arrow").enhanced("BTC/USD", "m5", limit=50)
    frame = folder.enhanced("BTC/USD", "m5", limit=50)
    assert table.num_rows == 50
    assert table.column_names == ["open_time", *frame]
    close = np.array(table["close"].to_pylist(), dtype=float)
    np.testing.assert_array_equal(close, frame["close"].to_numpy())


def test_polars_frames_hold_the_same_values(shop: Shop, folder: Client[Any]):
    pytest.importorskip("polars")
    table = connect(shop.settings.data, frames="polars").enhanced("BTC/USD", "m5", limit=50)
    frame = folder.enhanced("BTC/USD", "m5", limit=50)
    assert table.columns == ["open_time", *frame]
    assert table["open_time"].to_list() == frame.index.to_pydatetime().tolist()
    close, zones = table["close"].to_list(), table["zone"].to_list()
    assert (close, zones) == (frame["close"].tolist(), [None if pd.isna(zone) else zone for zone in frame["zone"]])


def test_the_package_itself_has_connect_and_imports_no_dagster():
    assert refresh_pipeline.connect is connect
    script = "import sys, refresh_pipeline as r; r.connect; print({'dagster', 'pandas'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_the_notebook_runs(shop: Shop, capsys: pytest.CaptureFixture[str]):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    with inside(shop.root):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    assert "BTC/USD" in capsys.readouterr().out
    assert isinstance(names["returns"], pd.Series)
