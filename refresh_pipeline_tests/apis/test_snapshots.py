"""Asking APIs and keeping what they answer, against a real server on loopback."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from refresh_pipeline.market.apis import Collection, parse_collection
from refresh_pipeline.pipeline.api_snapshots import columns_without_values, due, refresh, stale
from refresh_pipeline.sources import PermanentError
from refresh_pipeline.sources.any_api import payload_of, require_public
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.versions import changes
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.apis.api_server import Answer, ApiServer, api_server
from refresh_pipeline_tests.warehouse.warehouse_fixtures import NOW, query

KEY = "a-very-secret-key"


@pytest.fixture(scope="module")
def running() -> Iterator[ApiServer]:
    """One server for all tests of this module."""
    with api_server() as state:
        yield state


@pytest.fixture
def server(running: ApiServer) -> ApiServer:
    """The server, which has forgotten everything."""
    running.answers.clear()
    running.asked.clear()
    return running


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A warehouse without a file."""
    return Warehouse(database=str(tmp_path / "refresh.duckdb"))


def collection(server: ApiServer, api: str, *, allow_private: bool = True) -> Collection:
    """A collection of one API called `one`; URL stands for the server."""
    text = f"name: mine\nallow_private: {str(allow_private).lower()}\napis:\n  one: {api.replace('URL', server.url)}\n"
    return parse_collection(text, "mine.yaml")


def at(minutes: float) -> datetime:
    """So many minutes later."""
    return NOW + timedelta(minutes=minutes)


def asked(warehouse: Warehouse, mine: Collection, now: datetime = NOW) -> dict[str, Attempt]:
    """All questions asked, with a key that is set."""
    limits = Path(warehouse.database).with_name("limits")
    return refresh(
        warehouse, mine, mine.questions, now, lambda name: KEY if name == "MY_KEY" else None, limits_dir=limits
    )


def stored(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """Payloads, when they were first seen and when last, in minutes."""
    rows = query(warehouse, "select payload, fetched_at, seen_at from mine.snapshots order by fetched_at")
    begun = NOW.replace(tzinfo=None)
    return [(payload, *((moment - begun) // timedelta(minutes=1) for moment in moments)) for payload, *moments in rows]


def test_a_payload_is_stored_when_it_changed_and_noted_as_seen_otherwise(server: ApiServer, warehouse: Warehouse):
    mine = collection(server, "{url: URL/a, ignore: [t, data.0.left], columns: {v: {path: data.0.v, type: double}}}")
    for minute, value, stamp in ((0, 1, 1), (1, 1, 2), (2, 5, 3), (3, 5, 4)):
        server.says("/a", json.dumps({"t": stamp, "data": [{"v": value, "left": stamp}]}))
        results = asked(warehouse, mine, at(minute))
        assert results["one"].outcome is (Outcome.unchanged if minute % 2 else Outcome.updated)
    assert [(first, last) for _, first, last in stored(warehouse)] == [(0, 1), (2, 3)]
    assert query(warehouse, "select v from mine.one order by fetched_at") == [(1.0,), (5.0,)]


def test_etags_are_sent_and_304_counts_as_unchanged(server: ApiServer, warehouse: Warehouse):
    def answer(headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        known = headers.get("If-None-Match")
        return (304, {"ETag": '"x"'}, b"") if known == '"x"' else (200, {"ETag": '"x"'}, b"[1]")

    server.answers["/a"] = answer
    mine = collection(server, "{url: URL/a}")
    assert asked(warehouse, mine)["one"].outcome is Outcome.updated
    assert asked(warehouse, mine, at(1))["one"].outcome is Outcome.unchanged
    assert stored(warehouse) == [("[1]", 0, 1)]


def test_changes_of_payloads_are_in_the_feed_and_failures_are_not(server: ApiServer, warehouse: Warehouse):
    server.says("/a", "{}")
    mine = collection(server, "{url: URL/a}")
    asked(warehouse, mine)
    with connect(warehouse.database, read_only=True) as connection:
        read = changes(connection)
    [row] = read.changes
    assert (row.market, row.asset, row.instrument, row.timeframe) == ("mine", "snapshots", "one", "")
    server.says("/a", "no", 500)
    asked(warehouse, mine, at(1))
    with connect(warehouse.database, read_only=True) as connection:
        assert changes(connection, read.version).changes == []


@pytest.mark.parametrize(
    ("answer", "status", "reason", "transient"),
    [
        ("<html>welcome</html>", 200, "expected JSON, received text/html", False),
        ('{"a": NaN}', 200, "NaN", False),
        ("[" * 150 + "]" * 150, 200, "at most 100 levels", False),
        ("[" * 100_000 + "]" * 100_000, 200, "at most 100 levels", False),
        ('"' + "x" * 6_000_000 + '"', 200, "more than 5 MB", False),
        ("slow down", 429, "HTTP 429", True),
        ("down", 503, "HTTP 503", True),
        ("go away", 403, "HTTP 403", False),
    ],
    ids=["html", "nan", "deep", "deeper", "large", "429", "503", "403"],
)
def test_what_is_no_answer_fails_in_words_and_leaves_the_payload(
    server: ApiServer, warehouse: Warehouse, answer: str, status: int, reason: str, transient: bool
):
    mine = collection(server, "{url: URL/a}")
    server.says("/a", "[1]")
    asked(warehouse, mine)
    server.says("/a", answer, status, Content_Type="text/html", Retry_After="7")
    failed = asked(warehouse, mine, at(1))["one"]
    assert (failed.outcome, failed.transient) == (Outcome.failed, transient)
    assert reason in (failed.reason or "")
    assert [row[0] for row in stored(warehouse)] == ["[1]"]


def test_private_addresses_are_refused_unless_the_file_allows_them(server: ApiServer, warehouse: Warehouse):
    server.says("/a", "[1]")
    for url in (
        "URL/a",
        "http://localhost:1/a",
        "http://[::1]:1/",
        "http://169.254.169.254/latest",
    ):
        mine = collection(server, f"{{url: '{url}'}}", allow_private=False)
        failed = asked(warehouse, mine)["one"]
        assert failed.outcome is Outcome.failed
        assert "not public" in (failed.reason or "")
        assert not failed.transient
    assert server.asked == []
    for address in ("10.0.0.1", "::ffff:127.0.0.1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "100.64.0.1", "fd00::1"):
        with pytest.raises(PermanentError, match="not public"):
            require_public(address, "a.example", allow_private=False)
    require_public("93.184.216.34", "a.example", allow_private=False)


def test_redirects_are_followed_within_the_host_alone(server: ApiServer, warehouse: Warehouse):
    server.says("/a", "", 302, Location="/b")
    server.says("/b", "[2]")
    mine = collection(server, "{url: URL/a}")
    assert asked(warehouse, mine)["one"].outcome is Outcome.updated
    server.says("/a", "", 302, Location="http://127.0.0.1:1/b")
    assert "another host" in (asked(warehouse, mine, at(1))["one"].reason or "")
    server.says("/a", "", 302, Location="/a")
    assert "more than 3 times" in (asked(warehouse, mine, at(2))["one"].reason or "")


def test_the_next_way_is_taken_where_the_first_one_fails(server: ApiServer, warehouse: Warehouse):
    server.says("/a", "down", 503)
    server.says("/b", '{"result": "0x1"}')
    body = '{jsonrpc: "2.0", method: eth_gasPrice, params: [], id: 1}'
    mine = collection(server, f"{{url: URL/a, or: [{{url: URL/b, method: POST, body: {body}}}]}}")
    assert asked(warehouse, mine)["one"].outcome is Outcome.updated
    assert query(warehouse, "select url_used from mine.snapshots") == [(f"{server.url}/b",)]
    method, _, _, sent = server.asked[-1]
    assert (method, json.loads(sent)["method"]) == ("POST", "eth_gasPrice")
    server.says("/b", "no", 404)
    failed = asked(warehouse, mine, at(1))["one"]
    assert "HTTP 503" in (failed.reason or "")
    assert "HTTP 404" in (failed.reason or "")


def test_a_key_is_sent_and_never_shown(server: ApiServer, warehouse: Warehouse):
    server.says("/a", f'{{"you sent": "{KEY}"}}', 403)
    mine = collection(server, "{url: URL/a, params: {key: $MY_KEY}}")
    failed = asked(warehouse, mine)["one"]
    assert KEY in server.asked[-1][1]
    assert KEY not in (failed.reason or "")
    server.says("/a", "[1]")
    asked(warehouse, mine, at(1))
    assert KEY not in str(query(warehouse, "select * from mine.snapshots"))
    lacking = collection(server, "{url: URL/a, params: {key: $OTHER_KEY}}")
    assert "the key OTHER_KEY is not set" in (asked(warehouse, lacking, at(2))["one"].reason or "")


def test_a_feed_is_kept_by_its_entries_and_one_with_entities_is_refused(server: ApiServer, warehouse: Warehouse):
    atom = "<feed xmlns='http://www.w3.org/2005/Atom'><entry><title>A</title><link href='https://a.example'/></entry></feed>"
    server.says("/a", atom)
    mine = collection(server, "{url: URL/a, answer: rss, rows: items, columns: {title: title, link: link}}")
    assert asked(warehouse, mine)["one"].outcome is Outcome.updated
    assert query(warehouse, "select title, link from mine.one") == [("A", "https://a.example")]
    for wrong in (b"<!DOCTYPE a [<!ENTITY b 'c'>]><rss/>", b"<html><body/></html>", b"no xml"):
        with pytest.raises(PermanentError, match="expected"):
            payload_of(wrong, "", "rss")


def test_failures_in_a_row_are_asked_more_rarely_and_silence_is_kept(server: ApiServer, warehouse: Warehouse):
    mine = collection(server, "{url: URL/a, every: 1m}")
    snapshots.prepare(warehouse.get_connection, mine)
    server.says("/a", "down", 500)
    waits, now = [], NOW
    for _ in range(5):
        asked(warehouse, mine, now)
        [status] = _statuses(warehouse).values()
        waits.append((status.due_at - now.replace(tzinfo=None)) // timedelta(minutes=1))
        now = now + timedelta(minutes=waits[-1])
    assert waits == [1, 1, 2, 4, 8]
    server.says("/a", "slow down", 429, Retry_After="3600")
    asked(warehouse, mine, now)
    assert due(mine, _statuses(warehouse), now + timedelta(minutes=59)) == []
    assert len(due(mine, _statuses(warehouse), now + timedelta(minutes=60))) == 1


def _statuses(warehouse: Warehouse) -> dict[str, snapshots.ApiStatus]:
    with connect(warehouse.database, read_only=True) as connection:
        return snapshots.statuses(connection, "mine")


def test_what_is_due_is_what_was_never_asked_or_whose_interval_has_passed(server: ApiServer, warehouse: Warehouse):
    server.says("/a", "[1]")
    mine = collection(server, "{url: URL/a, every: 10m}")
    assert len(due(mine, {}, NOW)) == 1
    asked(warehouse, mine)
    assert due(mine, _statuses(warehouse), at(9)) == []
    assert len(due(mine, _statuses(warehouse), at(10))) == 1
    assert due(collection(server, "{url: URL/a, enabled: false}"), {}, NOW) == []


@pytest.mark.parametrize(("every", "asks"), [("1m", 12), ("10s", 12), ("2m", 6), ("5m", 3)])
def test_each_tick_of_the_interval_asks_however_late_its_run_begins(
    server: ApiServer, warehouse: Warehouse, every: str, asks: int
):
    mine = collection(server, f"{{url: URL/a, every: {every}}}")
    for minute, late in zip(range(12), (2, 9, 50, 0.2, 31, 4, 4, 59, 1, 0, 12, 5), strict=True):
        # An attempt that fails counts from its minute as one that succeeds.
        server.says("/a", f"[{minute}]", 503 if minute == 4 else 200)
        if due(mine, _statuses(warehouse) if minute else {}, at(minute)):
            asked(warehouse, mine, at(minute) + timedelta(seconds=late))
    assert len(server.asked) == asks


def test_an_api_that_was_not_answered_for_three_intervals_is_stale(server: ApiServer, warehouse: Warehouse):
    mine = collection(server, "{url: URL/a, every: 10m}")
    server.says("/a", "[1]")
    asked(warehouse, mine)
    assert stale(warehouse, mine, at(31)) == {}
    server.says("/a", "down", 503)
    asked(warehouse, mine, at(20))
    [fault] = stale(warehouse, mine, at(32)).values()
    assert "2026-01-01 00:00 UTC" in fault
    assert "HTTP 503" in fault
    off = collection(server, "{url: URL/a, every: 10m, enabled: false}")
    assert stale(warehouse, off, at(32)) == {}


def test_what_a_clock_that_was_ahead_has_written_is_put_back(server: ApiServer, warehouse: Warehouse):
    mine = collection(server, "{url: URL/a, every: 1h}")
    for minute, answer in ((0, "[1]"), (26 * 60, "[2]"), (27 * 60, "[3]")):
        server.says("/a", answer)
        asked(warehouse, mine, at(minute))
    assert len(due(mine, _statuses(warehouse), at(30))) == 1
    server.says("/a", "[4]")
    outcomes = [asked(warehouse, mine, at(minute))["one"].outcome for minute in (30, 31)]
    assert outcomes == [Outcome.updated, Outcome.unchanged]
    assert due(mine, _statuses(warehouse), at(32)) == []
    assert stored(warehouse) == [("[1]", 0, 0), ("[2]", 29, 30), ("[3]", 29, 30), ("[4]", 30, 31)]


def test_retention_keeps_the_newest_payload_whatever_its_age(server: ApiServer, warehouse: Warehouse):
    mine = collection(server, "{url: URL/a, keep: {payloads: 3, days: 1}}")
    for number in range(6):
        server.says("/a", f"[{number}]")
        asked(warehouse, mine, at(number))
    with connect(warehouse.database) as connection, transaction(connection):
        assert snapshots.prune(connection, mine, at(6)) == 3
    assert [row[0] for row in stored(warehouse)] == ["[3]", "[4]", "[5]"]
    with connect(warehouse.database) as connection, transaction(connection):
        assert snapshots.prune(connection, mine, at(60 * 24 * 9)) == 2
    assert [row[0] for row in stored(warehouse)] == ["[5]"]


def test_a_column_that_finds_nothing_any_more_is_named(server: ApiServer, warehouse: Warehouse):
    mine = collection(server, "{url: URL/a, columns: {v: {path: v, type: double}, w: w}}")
    server.says("/a", '{"v": 1, "w": "x"}')
    asked(warehouse, mine)
    assert columns_without_values(warehouse, mine) == {}
    server.says("/a", '{"v": "soon", "w": "x"}')
    asked(warehouse, mine, at(1))
    assert columns_without_values(warehouse, mine) == {"one": ["v"]}


def test_candles_join_what_was_known_of_an_api_at_each_bar(server: ApiServer, warehouse: Warehouse):
    mine = collection(server, "{url: URL/a, columns: {v: {path: v, type: bigint}}}")
    for minute in (-0.1, 7, 12):
        server.says("/a", json.dumps({"v": round(minute)}))
        asked(warehouse, mine, at(minute))

    def late(_: Mapping[str, str]) -> Answer:
        time.sleep(0.3)
        return 200, {}, b'{"v": 20}'

    # Asked before a bar opens, and answered after it.
    server.answers["/a"] = late
    asked(warehouse, mine, at(20) - timedelta(seconds=0.2))
    rows = query(
        warehouse,
        "with bars as (select timestamp '2026-01-01' + to_minutes(n * 5) as open_time from range(-1, 6) t(n)) "
        "select minute(b.open_time), k.v from bars b asof left join mine.one k on k.fetched_at <= b.open_time "
        "order by b.open_time",
    )
    assert rows == [(55, None), (0, 0), (5, 0), (10, 7), (15, 12), (20, 12), (25, 20)]
    with connect(warehouse.database, read_only=True) as connection:
        known = snapshots.as_of(connection, "mine", "one", at(8))
        assert known is not None
        assert known.payload == '{"v":7}'
        assert snapshots.as_of(connection, "mine", "one", at(-1)) is None
