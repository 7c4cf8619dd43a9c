"""GET /signals and `refresh signals`: what is shown, what the filters leave, whether timeframes agree."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import yaml

from refresh_pipeline.cli.console import out
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.signals import MarketAlerts
from refresh_pipeline.monitoring.signals import signal_events
from refresh_pipeline_tests.api.served import FAIR, Shop
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import command
from refresh_pipeline_tests.warehouse.warehouse_fixtures import query

MARKET = yaml.safe_load(FAIR)
KINDS = ("fractal", "divergent", "zone_change", "saucer", "zero_cross", "squat")


def signals(client: httpx.Client, **params: str) -> list[dict]:
    answer = client.get("/api/v1/signals", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["signals"]


def test_a_row_holds_the_state_and_the_newest_signal_of_each_kind(client: httpx.Client, shop: Shop) -> None:
    rows = signals(client)
    assert [(row["instrument"], row["timeframe"]) for row in rows] == [("BTC/USD", "m5"), ("ETH/USD", "m5")]
    [(when, known)] = query(
        shop.warehouse,
        "select max(open_time), arg_max(known_at, open_time) from fair.signals where kind = 'squat' "
        "and instrument = 'BTC/USD'",
    )
    squat = rows[0]["squat"]
    assert [datetime.fromisoformat(squat[name]).replace(tzinfo=None) for name in ("open_time", "known_at")] == [
        when,
        known,
    ]


def test_signals_come_from_memory_while_nothing_changes(client: httpx.Client) -> None:
    rows = signals(client)
    openings = client.get("/api/v1/metrics").json()["reader"]["openings"]
    assert signals(client) == rows
    assert signals(client, kind="squat") != rows
    assert client.get("/api/v1/metrics").json()["reader"]["openings"] == openings


def test_alerts_tell_the_signals_that_a_market_names_and_that_are_new(shop: Shop) -> None:
    wanted = {"kind": "squat", "timeframes": ["5m"], "instruments": ["BTC/USD"]}
    market = shop.market.model_copy(update={"alerts": MarketAlerts.model_validate({"signals": [wanted]})})
    [(when, known)] = query(
        shop.warehouse,
        "select max(open_time), arg_max(known_at, open_time) from fair.signals where kind = 'squat' "
        "and instrument = 'BTC/USD'",
    )
    [event] = signal_events(shop.settings, [market], known.replace(tzinfo=UTC) + timedelta(minutes=6))
    assert (event.kind, event.item) == ("signal squat squat", f"BTC/USD m5 {when:%Y-%m-%dT%H:%M:%SZ}")
    assert event.is_event
    assert signal_events(shop.settings, [market], known.replace(tzinfo=UTC) + timedelta(hours=1)) == []
    assert signal_events(shop.settings, [shop.market], known.replace(tzinfo=UTC)) == []
    for wrong in (
        {"kind": "gossip"},
        {"kind": "squat", "instruments": ["BTX"]},
        {"kind": "squat", "timeframes": ["W1"]},
    ):
        with pytest.raises(ValueError, match=r"gossip|BTX|W1"):
            Market.model_validate({**MARKET, "alerts": {"signals": [wrong]}})


def test_filters_leave_what_they_name(client: httpx.Client) -> None:
    everything = signals(client)
    up = signals(client, kind="fractal", direction="up")
    assert {row["fractal"]["direction"] for row in up} <= {"up"}
    assert all(row[kind] is None for row in up for kind in KINDS if kind != "fractal")
    newest = max(row[kind]["known_at"] for row in everything for kind in KINDS if row[kind] and row[kind]["known_at"])
    assert {row[kind]["known_at"] for row in signals(client, since=newest) for kind in KINDS if row[kind]} == {newest}
    assert [row["instrument"] for row in signals(client, instrument="ethusd", timeframe="5m")] == ["ETH/USD"]
    assert signals(client, market="mall") == []


def test_a_wrong_filter_is_a_problem(client: httpx.Client) -> None:
    assert client.get("/api/v1/signals?kind=nope").status_code == 422
    assert client.get("/api/v1/signals?instrument=nope").status_code == 404
    assert client.get("/api/v1/signals?since=yesterday").status_code == 422


def test_timeframes_that_agree_are_coherent(client: httpx.Client) -> None:
    body = client.get("/api/v1/signals").json()
    by_instrument = {row["instrument"]: row for row in body["signals"]}
    for row in body["coherence"]:
        assert row["directions"] == {"m5": by_instrument[row["instrument"]]["mouth_direction"]}
        assert row["score"] == {"buy": 1, "sell": -1, "neither": 0}[row["directions"]["m5"]]


def test_the_command_shows_the_same(client: httpx.Client, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "width", 80)
    with inside(shop.root):
        table = command("signals", "--instrument", "BTC/USD")
        found = command("signals", "--json")
        wrong = command("signals", "--kind", "nope")
    assert table.exit_code == 0
    assert "BTC/USD" in table.output
    assert "ETH/USD" not in table.output
    assert max(map(len, table.output.splitlines())) <= 80
    assert "\u2026" not in table.output
    assert json.loads(found.output)["signals"] == signals(client)
    assert wrong.exit_code == 2
