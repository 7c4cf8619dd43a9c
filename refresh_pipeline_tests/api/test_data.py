"""GET /data: every spelling, every format, every window, against what is stored; over a real server."""

import csv
import io
import json
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refresh_pipeline.client.place import Question
from refresh_pipeline.client.server import ServerPlace
from refresh_pipeline.market.adjustments import Adjustment, AdjustmentKind
from refresh_pipeline_tests.api.served import BARS, BTC, NOW, Shop, served
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, opens, query

PATH = "/api/v1/data/BTC/USD/m5"


def closes(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [row["close"] for row in answer.json()["data"]]


def stored(shop: Shop, columns: str = "close", table: str = "enhanced_candles") -> list[Any]:
    rows = query(
        shop.warehouse,
        f"select {columns} from fair.{table} where instrument = 'BTC/USD' and timeframe = 'm5' order by open_time",
    )
    return [row[0] if len(row) == 1 else row for row in rows]


@pytest.mark.parametrize(
    "path", ["BTC/USD/m5", "BTC%2FUSD/m5", "BTC-USD/5m", "BTCUSD/5min", "btc/usd/5T", "btc_usd/m5", "BTC%252FUSD/m5"]
)
def test_every_spelling_is_one_question(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/api/v1/data/{path}?limit=3")
    assert answer.json()["instrument"] == "BTC/USD"
    assert answer.headers["etag"] == client.get(f"{PATH}?limit=3").headers["etag"]


def test_a_venues_symbol_is_a_spelling_too(client: httpx.Client) -> None:
    assert client.get("/api/v1/data/XETH/m5?limit=1").json()["instrument"] == "ETH/USD"


def test_the_newest_rows_come_oldest_first(client: httpx.Client, shop: Shop) -> None:
    answer = client.get(PATH)
    body = answer.json()
    assert closes(answer) == stored(shop)[-500:]
    assert (body["records"], body["next"], body["bars_behind"]) == (500, None, 0)
    assert body["data"][-1]["open_time"] == body["expected_open_time"]
    assert list(body["data"][0]) == body["columns"]
    assert answer.headers["x-records"] == "500"


def test_until_alone_gives_the_newest_before_it(client: httpx.Client, shop: Shop) -> None:
    rows = stored(shop, "close, open_time")
    until = f"{rows[700][1].isoformat()}Z"
    assert closes(client.get(PATH, params={"until": until, "limit": 5})) == [row[0] for row in rows[695:700]]
    milliseconds = client.get(
        PATH,
        params={
            "until": client.get(PATH, params={"limit": 1, "time": "ms"}).json()["data"][0]["open_time"],
            "limit": 1,
        },
    )
    assert closes(milliseconds) == [rows[-2][0]]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(250, 1300))
def test_pages_joined_are_the_table(client: httpx.Client, shop: Shop, limit: int) -> None:
    url, found = f"{PATH}?since=2024-01-01&limit={limit}&columns=close&layer=candles", []
    while url:
        answer = client.get(url)
        found += closes(answer)
        url = answer.json()["next"]
        assert ("link" in answer.headers) == bool(url)
    assert found == stored(shop)


def test_every_format_holds_the_same_values(client: httpx.Client, tmp_path: Any) -> None:
    base = f"{PATH}?limit=50&columns=close,ao,ao_color,fractal_up_2,mfi"
    rows = client.get(base).json()["data"]
    names = list(rows[0])
    columns = client.get(f"{base}&format=columns").json()["data"]
    assert [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] == rows
    assert [json.loads(line) for line in client.get(f"{base}&format=ndjson").text.splitlines()] == rows
    texts = list(csv.DictReader(io.StringIO(client.get(f"{base}&format=csv").text)))
    as_text = [{name: "" if row[name] is None else str(row[name]) for name in names} for row in rows]
    assert texts == as_text
    (tmp_path / "a.parquet").write_bytes(client.get(f"{base}&format=parquet").content)
    listed = "strftime(open_time at time zone 'UTC', '%Y-%m-%dT%H:%M:%SZ') as open_time, * exclude (open_time)"
    with duckdb.connect() as connection:
        relation = connection.sql(f"select {listed} from read_parquet('{tmp_path / 'a.parquet'}')")
        assert [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()] == rows


def test_arrow_holds_the_same_values(client: httpx.Client) -> None:
    arro3 = pytest.importorskip("arro3.io")
    answer = client.get(f"{PATH}?limit=50&columns=close,ao_color,fractal_up_2&format=arrow")
    table = arro3.read_ipc_stream(io.BytesIO(answer.content)).read_all()
    rows = client.get(f"{PATH}?limit=50&columns=close,ao_color,fractal_up_2").json()["data"]
    for name in ("close", "ao_color", "fractal_up_2"):
        assert table[name].to_pylist() == [row[name] for row in rows]


def test_accept_chooses_the_format(client: httpx.Client) -> None:
    assert client.get(PATH, headers={"accept": "text/csv"}).headers["content-type"] == "text/csv; charset=utf-8"
    refused = client.get(PATH, headers={"accept": "image/png"})
    assert (refused.status_code, refused.json()["type"]) == (406, "/problems/not-acceptable")


def test_the_predecessors_names(client: httpx.Client) -> None:
    row = client.get(f"{PATH}?limit=1&names=fx_refresh").json()["data"][0]
    assert list(row)[:7] == ["Date", "Volume", "Open", "High", "Low", "Close", "Median"]
    assert row["Date"] == "2024-01-05 03:55:00"


def test_what_the_client_has_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get(PATH)
    assert first.headers["content-encoding"] == "gzip"
    again = client.get(PATH, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    plain = client.get(PATH, headers={"accept-encoding": "identity"})
    assert plain.headers["etag"] != first.headers["etag"]
    assert plain.json() == first.json()


@pytest.mark.parametrize("path", [PATH, f"{PATH}?layer=candles&format=csv", f"{PATH}/latest"])
def test_headers_tell_the_version_and_when_it_was_written(client: httpx.Client, path: str) -> None:
    answer, newest = client.get(path), client.get(f"{PATH}/latest").json()
    versions = {"X-Version": answer.headers["x-version"], "Last-Modified": answer.headers["last-modified"]}
    candles = client.get(f"{PATH}?layer=candles&limit=1").json()
    body = candles if "layer=candles" in path else newest
    written = datetime.fromisoformat(body["last_updated"])
    assert versions == {"X-Version": str(body["version"]), "Last-Modified": format_datetime(written, usegmt=True)}
    # The tag decides alone: a body also names the candle that is expected now.
    since = {"if-modified-since": answer.headers["last-modified"]}
    assert client.get(path, headers=since).status_code == 200
    both = {**since, "if-none-match": answer.headers["etag"]}
    assert client.get(path, headers=both).status_code == 304


def test_head_is_get_without_a_body(client: httpx.Client) -> None:
    got, head = client.get(PATH), client.head(PATH)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", got.headers["etag"])


def test_the_newest_row(client: httpx.Client, shop: Shop) -> None:
    body = client.get(f"{PATH}/latest").json()
    assert body["latest"]["close"] == stored(shop)[-1]
    assert set(body) == {"market", "instrument", "timeframe", "layer", "last_updated", "version", "latest"}
    assert client.get("/api/v1/data/SOL/USD/m5/latest").json()["latest"] is None


def test_a_series_without_candles_has_no_rows(client: httpx.Client) -> None:
    body = client.get("/api/v1/data/SOL/USD/H1").json()
    assert (body["records"], body["data"], body["bars_behind"]) == (0, [], None)


def test_many_cells_are_read_in_several_openings(client: httpx.Client, shop: Shop) -> None:
    answer = client.get(f"{PATH}?layer=joined&limit=5000&format=columns")
    assert answer.json()["data"]["close"] == stored(shop)
    assert len(answer.json()["data"]["sma_10"]) == BARS


@pytest.mark.parametrize(
    ("path", "status", "name", "fields"),
    [
        ("BTX/USD/m5", 404, "unknown-instrument", {"nearest": "BTC/USD"}),
        ("BTC/USD/7m", 404, "unknown-timeframe", {}),
        ("ETH/USD/D1", 404, "unknown-timeframe", {"allowed": ["m5", "H1"]}),
        ("EUR/latest", 404, "unknown-timeframe", {}),
        ("BTC/USD/M1", 400, "ambiguous-timeframe", {"readings": ["m1", "MN1"]}),
        ("BTC/USD/H1", 409, "ambiguous-instrument", {"markets": ["fair", "mall"]}),
        ("BTC/USD/m5?market=bazar", 404, "unknown-market", {"allowed": ["fair", "mall"]}),
        ("BTC/USD/m5?columns=closs", 400, "unknown-column", {"nearest": "close"}),
        ("ADA/USD/D1?limit=10000&layer=joined", 400, "too-many-cells", {}),
        ("BTC/USD/m5?limit=0", 422, "invalid-parameter", {}),
        ("BTC/USD/m5?limit=x", 422, "invalid-parameter", {}),
        ("BTC/USD/m5?since=yesterday", 422, "invalid-parameter", {}),
        ("BTC/USD/m5?layer=raw", 422, "invalid-parameter", {}),
        ("BTC/USD/m5?as_of=2024-01-02", 422, "invalid-parameter", {}),
        ("BTC/USD/m5?adjusted=true", 422, "invalid-parameter", {}),
        ("BTC/USD/m5?adjusted=true&layer=candles&as_of=2024-01-02", 422, "invalid-parameter", {}),
        ("BTC/USD/m5?names=fx_refresh&layer=joined", 422, "invalid-parameter", {}),
    ],
)
def test_a_wrong_question_is_a_problem(
    client: httpx.Client, path: str, status: int, name: str, fields: dict[str, Any]
) -> None:
    answer = client.get(f"/api/v1/data/{path}")
    body = answer.json()
    assert (answer.status_code, body["type"], body["status"]) == (status, f"/problems/{name}", status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert {key: body[key] for key in fields} == fields
    assert client.get(body["type"]).json()["title"] == body["title"]


def test_the_market_tells_two_series_apart(client: httpx.Client) -> None:
    assert client.get("/api/v1/data/BTC/USD/H1?market=mall").json()["market"] == "mall"
    assert client.get("/api/v1/data/BTC/USD/D1").json()["market"] == "mall"


def test_candles_as_they_stood(client: httpx.Client) -> None:
    assert client.get(f"{PATH}?layer=candles&as_of=2024-01-02").json()["records"] == 0
    assert client.get(f"{PATH}?layer=candles&as_of=2030-01-02%2B00:00&limit=7").json()["records"] == 7


def test_the_nse_predecessors_line(client: httpx.Client, shop: Shop) -> None:
    body = client.get("/pipeline/data/BTCUSD?timeframe=5T&start_date=2024-01-02&end_date=2024-01-02T01:00").json()
    assert (body["count"], body["columns"][0], len(body["data"])) == (12, "open_time", 12)
    assert body["data"][0]["close"] == stored(shop)[288]


def test_adjusted_candles_follow_a_split(tmp_path: Path) -> None:
    shop = Shop.opened(tmp_path / "shop", REFRESH_API_RATE="100000")
    shop.refresh({BTC: candles(20)})
    split = Adjustment("BTC/USD", opens(11)[10], AdjustmentKind.split, 2.0, False)
    shop.warehouse.store_adjustments(shop.market, [split], "demo", NOW)
    raw = stored(shop, table="raw_candles")
    wanted = [close / 2 for close in raw[:10]] + raw[10:]
    with served(shop) as client:
        plain = client.get(f"{PATH}?layer=candles")
        answer = client.get(f"{PATH}?layer=candles&adjusted=true")
        assert (closes(plain), closes(answer)) == (raw, wanted)
        assert answer.headers["etag"] != plain.headers["etag"]
        first = client.get(f"{PATH}?layer=candles&adjusted=true&since=2024-01-01&limit=4")
        assert closes(first) == wanted[:4]
        assert closes(client.get(first.json()["next"])) == wanted[4:8]
        place = ServerPlace(str(client.base_url), None)
        question = Question("candles", "BTC/USD", "m5", None, None, None, None, ["close"], adjusted=True)
        assert place.rows(question)["close"].tolist() == wanted
