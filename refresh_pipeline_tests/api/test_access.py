"""Who may ask the API: keys, read keys, sessions, sites, rates, bodies; over a real server, every route."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from refresh_pipeline.api.access import rules_of
from refresh_pipeline.api.app import ROUTERS
from refresh_pipeline.api.guard import OpenDoor, RateLimits
from refresh_pipeline.api.service import Service
from refresh_pipeline_tests.api.served import KEY, READ_KEY, Shop, served, uvicorn_of

OPEN = {"/health", "/api/v1/health", "/api/v1/ready", "/api/v1/session"}
HEALTH = "/api/v1/health"
EVIL = {"origin": "https://evil.example"}
CHARTS = "https://charts.example.org"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    variables = {"REFRESH_API_KEY": f"another key as long, {KEY}", "REFRESH_API_READ_KEY": READ_KEY}
    variables |= {"REFRESH_API_ORIGINS": CHARTS, "REFRESH_API_RATE": "100000"}
    with served(Shop.opened(tmp_path_factory.mktemp("api") / "shop", **variables)) as client:
        yield client


@pytest.fixture(scope="module")
def open_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with served(Shop.opened(tmp_path_factory.mktemp("api") / "shop", REFRESH_API_RATE="20")) as client:
        yield client


def routes() -> list[tuple[str, str]]:
    """Method and a path of every route."""
    listed = [route for router in ROUTERS for route in router.routes]
    return [
        (method, re.sub(r"{[^}]*}", "x", getattr(route, "path", "")))
        for route in listed
        for method in sorted(getattr(route, "methods", ()) or ())
    ]


def asked(client: httpx.Client, method: str, path: str, key: str | None = None) -> httpx.Response:
    headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
    return client.request(method, path, headers=headers)


def test_every_route_wants_a_key_and_what_changes_wants_a_full_one(client: httpx.Client) -> None:
    for method, path in routes():
        if path in OPEN or path.startswith("/static/"):
            continue
        without = asked(client, method, path)
        assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer"), path
        assert without.json()["type"] == "/problems/unauthorized"
        if method not in ("GET", "HEAD"):
            read = asked(client, method, path, READ_KEY)
            assert (read.status_code, read.json()["type"]) == (403, "/problems/read-only-key"), path
        elif not path.endswith("/events"):
            assert asked(client, method, path, READ_KEY).status_code not in (401, 403), path


def test_a_wrong_key_opens_nothing_and_ten_are_too_many(tmp_path: Path) -> None:
    with served(Shop.opened(tmp_path / "shop", REFRESH_API_KEY=KEY)) as client:
        statuses = [asked(client, "GET", "/problems/busy", "a wrong key of some length").status_code for _ in range(12)]
        assert statuses == [401] * 10 + [429] * 2
        assert asked(client, "GET", "/problems/busy", KEY).status_code == 429


def test_a_key_comes_in_a_header_and_never_in_the_query(client: httpx.Client) -> None:
    assert client.get("/problems/busy", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert client.get("/problems/busy", params={"api_key": KEY, "key": KEY}).status_code == 401


def test_a_page_learns_what_its_key_may_do(client: httpx.Client) -> None:
    for key, role in ((KEY, "full"), (READ_KEY, "read")):
        answer = client.get("/api/v1/session/role", headers={"x-api-key": key})
        assert answer.json() == {"key_needed": True, "role": role}
    assert client.get("/api/v1/session/role").status_code == 401


@pytest.mark.parametrize(("key", "may_write"), [(KEY, True), (READ_KEY, False)])
def test_a_session_may_do_what_its_key_may(client: httpx.Client, key: str, may_write: bool) -> None:
    answer = client.post("/api/v1/session", json={"key": key})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204
    assert {"HttpOnly", "SameSite=Strict", "Max-Age=43200"} <= set(cookie.split("; "))
    headers = {"cookie": cookie.partition(";")[0]}
    client.cookies.clear()
    assert client.get("/problems/busy", headers=headers).status_code == 200
    assert (client.post("/problems/busy", headers=headers).status_code == 403) != may_write
    assert "Max-Age=0" in client.delete("/api/v1/session").headers["set-cookie"]
    assert client.post("/api/v1/session", json={"key": "x"}).status_code == 401


def test_health_needs_no_key(client: httpx.Client) -> None:
    assert client.get(HEALTH).json()["status"] == "healthy"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1"])
def test_a_foreign_host_is_misdirected(open_client: httpx.Client, host: str) -> None:
    answer = open_client.get(HEALTH, headers={"host": host})
    assert (answer.status_code, answer.json()["type"]) == (421, "/problems/host-not-allowed")


def test_a_foreign_site_reads_nothing_and_commands_nothing(open_client: httpx.Client) -> None:
    for answer in (
        open_client.get(HEALTH, headers=EVIL),
        open_client.post("/api/v1/session", json={"key": "x"}, headers=EVIL),
        open_client.get(HEALTH, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}),
        open_client.options(HEALTH, headers={**EVIL, "access-control-request-method": "GET"}),
    ):
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/origin-not-allowed")
        assert "access-control-allow-origin" not in answer.headers


def test_a_named_site_may_ask(client: httpx.Client) -> None:
    answer = client.get("/problems/busy", headers={"origin": CHARTS, "x-api-key": KEY})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, CHARTS)
    preflight = {
        "origin": CHARTS,
        "access-control-request-method": "GET",
        "access-control-request-headers": "x-api-key",
    }
    assert client.options("/problems/busy", headers=preflight).status_code == 200
    assert client.get(HEALTH, headers=EVIL).status_code == 403


def test_answers_carry_what_keeps_browsers_safe(open_client: httpx.Client) -> None:
    headers = open_client.get("/problems/busy").headers
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-cache")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_commands_take_json_alone_and_64_kb(open_client: httpx.Client) -> None:
    form = open_client.post("/api/v1/session", data={"key": "x"})
    assert (form.status_code, form.json()["type"]) == (415, "/problems/unsupported-media-type")
    large = open_client.post("/api/v1/session", json={"key": "x" * 70_000})
    assert (large.status_code, large.json()["type"]) == (413, "/problems/body-too-large")
    for content in (b"{", b"[]", b'{"key": 1}', b"\xff"):
        wrong = open_client.post("/api/v1/session", content=content, headers={"content-type": "application/json"})
        assert (wrong.status_code, wrong.json()["type"]) == (422, "/problems/invalid-body"), content


def test_what_is_not_there_is_a_problem(open_client: httpx.Client) -> None:
    for path in ("/nothing", "/api/v1/data/x", "/api/v1/../../etc/passwd"):
        assert open_client.get(path).json()["type"] == "/problems/unknown-route"
    wrong = open_client.put(HEALTH)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")


def test_a_fault_of_ours_is_a_number_that_the_log_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop.opened(tmp_path / "shop")
    service = Service.of(shop.settings, shop.markets)
    with uvicorn_of(service, shop.settings) as port:
        service.started_at = None  # type: ignore[assignment]
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/metrics")
    body = answer.json()
    assert (answer.status_code, body["type"]) == (500, "/problems/internal")
    assert body["id"] in caplog.text
    assert "Traceback" not in answer.text


def test_more_than_the_rate_is_refused_with_the_seconds_to_wait(open_client: httpx.Client) -> None:
    answers = [open_client.get("/problems/busy") for _ in range(90)]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["type"] == "/problems/rate-limited"
    assert (refused.headers["retry-after"], refused.headers["ratelimit-policy"]) == ("1", '"default";q=80;w=4')


def test_a_rate_fills_up_again() -> None:
    rates = RateLimits(2.0)
    assert [rates.take("a", 100.0) for _ in range(8)] == [0.0] * 8
    assert rates.take("a", 100.0) == 0.5
    assert rates.take("b", 100.0) == 0.0
    assert rates.take("a", 100.5) == 0.0


@pytest.mark.parametrize(("host", "variables"), [("0.0.0.0", {}), ("127.0.0.1", {"REFRESH_API_ORIGINS": "*"})])
def test_without_a_key_nobody_else_reaches_it(tmp_path: Path, host: str, variables: dict[str, str]) -> None:
    settings = Shop.opened(tmp_path / "shop", **variables).settings
    with pytest.raises(OpenDoor, match="set REFRESH_API_KEY"):
        rules_of(settings, host, 8080)
