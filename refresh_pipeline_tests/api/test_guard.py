"""Who may ask: decisions on a request's head, and the guard in front of a real server."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from refresh_pipeline.api.guard import Guard, Head, Receive, Rules, Scope, Send, host_names, refusal
from refresh_pipeline.api.login import SESSION_SECONDS, Keys

KEY, OTHER_KEY = "a key of some length", "another key as long"
PORT = 3000
OURS = "http://127.0.0.1:3000"
EVIL = "https://evil.example"
RULES = Rules(hosts=host_names(PORT, ["candles.example.org"]), mutating=frozenset({"graphql"}), closed=("report_",))
JSON = {"content-type": "application/json"}


def reason(method: str = "GET", path: str = "/", query: str = "", kind: str = "http", **headers: str) -> str | None:
    named = {"host": "127.0.0.1:3000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    found = refusal(Head(kind, method, path, query, named), RULES)
    return found.name if found else None


@pytest.mark.parametrize(
    "host", ["127.0.0.1:3000", "localhost:3000", "LOCALHOST:3000", "[::1]:3000", "candles.example.org"]
)
def test_a_host_of_ours_is_answered(host: str) -> None:
    assert reason(host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "127.0.0.1",
        "127.0.0.1:3001",
        "127.0.0.1:3000.evil.example",
        "",
        "localhost:3000, x",
    ],
)
def test_any_other_host_is_not(host: str) -> None:
    assert reason(host=host) == "host-not-allowed"


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://127.0.0.1:8080", "http://localhost:3000.evil.example", "file://", "http://["]
)
def test_a_page_of_another_origin_is_refused_whatever_it_asks_for(origin: str) -> None:
    assert reason(origin=origin) == "origin-not-allowed"
    assert reason("POST", "/graphql", origin=origin, **JSON) == "origin-not-allowed"
    assert reason(kind="websocket", path="/graphql", origin=origin) == "origin-not-allowed"


def test_our_own_pages_and_programs_are_answered() -> None:
    assert (
        reason(
            "POST",
            "/graphql",
            query="op=Runs",
            origin=OURS,
            sec_fetch_site="same-origin",
            content_type="application/json; charset=utf-8",
        )
        is None
    )
    assert reason("POST", "/graphql", content_type="application/json") is None
    assert reason(path="/runs") is None
    assert reason(kind="websocket", path="/graphql", origin=OURS) is None


def test_a_websocket_without_an_origin_is_refused() -> None:
    assert reason(kind="websocket", path="/graphql") == "origin-not-allowed"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_of_another_site_only_a_link_to_a_page_leads_here(site: str) -> None:
    assert reason(path="/runs", sec_fetch_site=site, sec_fetch_mode="navigate") is None
    assert reason(path="/runs", sec_fetch_site=site, sec_fetch_mode="no-cors") == "origin-not-allowed"
    assert reason(path="/graphql", sec_fetch_site=site, sec_fetch_mode="navigate") == "origin-not-allowed"
    assert reason("POST", "/runs", sec_fetch_site=site, sec_fetch_mode="navigate") == "origin-not-allowed"


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "//graphql", "/GraphQL", "/a/graphql"])
def test_what_changes_things_is_asked_by_post_of_json_alone(path: str) -> None:
    assert reason("GET", path, query="query=mutation{x}") == "method-not-allowed"
    assert reason("HEAD", path) == "method-not-allowed"
    assert reason("POST", path) == "unsupported-media-type"
    assert reason("POST", path, content_type="text/plain") == "unsupported-media-type"
    assert reason("POST", path, content_type="application/x-www-form-urlencoded") == "unsupported-media-type"
    assert reason("POST", path, query="op=a&query=mutation", content_type="application/json") == "invalid-parameter"
    assert reason("POST", path, query="que%72y=", content_type="application/json") == "invalid-parameter"


def test_closed_paths_are_closed_to_everybody() -> None:
    assert reason("POST", "/report_asset_materialization/demo/raw_candles", origin=OURS) == "closed"
    assert reason("GET", "/x/report_asset_check") == "closed"


# ---- in front of a server


@dataclass
class Behind:
    """The app behind the guard: notes which paths reached it."""

    reached: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.reached.append(scope["path"])
        headers = [(b"content-type", b"text/plain"), (b"content-security-policy", b"default-src 'self'")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"candles"})


@dataclass
class Server:
    url: str
    behind: Behind
    now: list[float]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, **options)


@pytest.fixture
def server() -> Iterator[Server]:
    behind, now = Behind(), [1_000_000.0]
    config = uvicorn.Config(behind, port=0, log_level="error")
    socket = config.bind_socket()
    port = socket.getsockname()[1]
    rules = Rules(hosts=host_names(port), mutating=frozenset({"graphql"}), public=frozenset({"/health"}))
    config.app = Guard(behind, rules, Keys.of(f"{KEY}, {OTHER_KEY}"), clock=lambda: now[0])
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve([socket])))
    thread.start()
    yield Server(f"http://127.0.0.1:{port}", behind, now)
    running.should_exit = True
    thread.join(10)
    socket.close()


def test_with_a_key_nobody_gets_in_without_it(server: Server) -> None:
    with server.client() as client:
        answer = client.get("/runs")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.get("/runs", headers={"x-api-key": "a wrong key of length"}).status_code == 401
        assert client.get("/health").status_code == 200
        assert server.behind.reached == ["/health"]


@pytest.mark.parametrize(
    "headers", [{"x-api-key": KEY}, {"authorization": f"Bearer {OTHER_KEY}"}, {"authorization": f"bearer {KEY}"}]
)
def test_a_program_gives_the_key_in_a_header(server: Server, headers: dict[str, str]) -> None:
    with server.client(headers=headers) as client:
        answer = client.get("/runs")
    assert answer.text == "candles"
    assert answer.headers["x-frame-options"] == "DENY"
    policies = answer.headers.get_list("content-security-policy")
    assert policies == ["default-src 'self'", "frame-ancestors 'none'"]


def test_a_key_in_the_address_opens_nothing(server: Server) -> None:
    with server.client() as client:
        assert client.get("/runs", params={"key": KEY, "x-api-key": KEY}).status_code == 401


def test_a_person_logs_in_and_goes_where_they_wanted(server: Server) -> None:
    with server.client(headers={"accept": "text/html", "origin": server.url}) as client:
        asked = client.get("/runs/today")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=/runs/today")
        page = client.get(asked.headers["location"])
        assert 'type="password"' in page.text
        assert KEY not in page.text
        answer = client.post("/login?next=/runs/today", data={"key": KEY})
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs/today")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert KEY not in cookie
        assert client.get("/runs/today").text == "candles"
        server.now[0] += SESSION_SECONDS + 1
        assert client.get("/runs/today").status_code == 303


def test_a_session_that_somebody_made_up_is_none(server: Server) -> None:
    real = Keys((KEY,)).session(server.now[0])
    until, _, signature = real.partition(".")
    later = f"{int(until) + 1}.{signature}"
    for session in (
        later,
        f"{until}.",
        until,
        "",
        "x.y",
        f"{until}.{'0' * 64}",
        Keys(("a key of nobody here",)).session(server.now[0]),
    ):
        with server.client(cookies={"refresh_session": session}) as client:
            assert client.get("/runs").status_code == 401, session
    with server.client(cookies={"refresh_session": real}) as client:
        assert client.get("/runs").status_code == 200


def test_a_login_leads_to_no_other_server(server: Server) -> None:
    with server.client(headers={"origin": server.url}) as client:
        for following in ("//evil.example/", "https://evil.example/", "/\\evil.example", "\nx"):
            answer = client.post("/login", params={"next": following}, data={"key": KEY})
            assert answer.headers["location"] == "/", following


def test_a_login_page_shows_no_markup_of_others(server: Server) -> None:
    with server.client() as client:
        page = client.get("/login", params={"next": '/"><script>alert(1)</script>'}).text
    assert "<script>" not in page


def test_ten_wrong_keys_a_minute_are_enough(server: Server) -> None:
    with server.client(headers={"origin": server.url}) as client:
        for _ in range(10):
            assert client.post("/login", data={"key": "a wrong key of length"}).status_code == 401
        assert client.post("/login", data={"key": KEY}).status_code == 429
        answer = client.get("/runs", headers={"x-api-key": KEY})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
        server.now[0] += 61
        assert client.get("/runs", headers={"x-api-key": KEY}).status_code == 200


def test_a_form_without_end_is_cut_off(server: Server) -> None:
    with server.client(headers={"origin": server.url}) as client:
        assert client.post("/login", content=b"key=" + b"x" * 10_000_000).status_code == 401


def test_no_key_is_no_key() -> None:
    assert not Keys.of(" , ")
    assert not Keys.of(None)
