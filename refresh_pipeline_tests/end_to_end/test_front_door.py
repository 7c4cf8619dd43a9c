"""Dagster's web UI behind the guard, attacked by pages of other origins in a real browser."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from refresh_pipeline_tests.end_to_end.programs import PATIENCE, free_port

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KEY = "a key of some length"
SCHEDULES = """{schedulesOrError(repositorySelector: {
  repositoryName: "__repository__", repositoryLocationName: "refresh_pipeline"
}) {... on Schedules {results {name scheduleState {id selectorId status}}}}}"""
STOP = 'mutation{{stopRunningSchedule(id:"{id}"){{__typename}}}}'


@dataclass
class Door:
    """A running front door, and the schedule that attackers want to stop."""

    port: int
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, query: str) -> dict:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query}, headers=self.headers, timeout=60)
        return answer.raise_for_status().json()["data"]

    def backup_schedule(self) -> dict:
        results = self.ask(SCHEDULES)["schedulesOrError"]["results"]
        return next(each["scheduleState"] for each in results if each["name"] == "backup")


def door_of(folder: Path, key: str | None) -> Iterator[Door]:
    """The program as systemd and the image start it, on the demo market."""
    port = free_port()
    (folder / "home").mkdir()
    shutil.copy(ROOT / "dagster.yaml", folder / "home")
    environment = {
        **os.environ,
        "HOME": str(folder),
        "REFRESH_DATA_DIR": str(folder),
        "DAGSTER_HOME": str(folder / "home"),
    }
    environment |= {"REFRESH_API_KEY": key} if key else {}
    command = [sys.executable, "-m", "refresh_pipeline.front_door", "-p", str(port), "-w", str(ROOT / "workspace.yaml")]
    program = subprocess.Popen(command, cwd=folder, env=environment)
    door = Door(port, {"x-api-key": key} if key else {})
    try:
        began = time.monotonic()
        while not answers(door) and program.poll() is None and time.monotonic() - began < PATIENCE:
            time.sleep(0.2)
        yield door
    finally:
        program.terminate()
        program.wait(30)


def answers(door: Door) -> bool:
    try:
        return httpx.get(f"{door.url}/server_info", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    yield from door_of(tmp_path_factory.mktemp("door"), None)


@pytest.fixture(scope="module")
def locked_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    yield from door_of(tmp_path_factory.mktemp("locked"), KEY)


def browse(url: str, folder: Path, *options: str) -> str:
    """What a page has become after some seconds in a headless browser, as HTML."""
    assert CHROMIUM
    plain = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    plain += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}"]
    command = [CHROMIUM, *plain, "--timeout=8000", *options, "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"
)


@pytest.fixture
def pages() -> Iterator["Pages"]:
    with Pages() as served:
        yield served


class Pages:
    """A site of somebody else, on another port of loopback."""

    def __enter__(self) -> "Pages":
        self.html = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = outer.html.encode()
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the base class)
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


ATTACKS = {
    "an image": """<img src="{url}/graphql?query={query}">""",
    "a form": """<form id=f method=post action="{url}/graphql?query={query}"></form><script>f.submit()</script>""",
    "a form of JSON": """<form id=f method=post enctype=text/plain action="{url}/graphql">
        <input name='{body}//' value=''></form><script>f.submit()</script>""",
    "fetch without reading": """<script>fetch("{url}/graphql", {{method: "POST", mode: "no-cors",
        body: JSON.stringify({{query: decodeURIComponent("{query}")}})}})</script>""",
    "a link that is followed": """<script>location = "{url}/graphql?query={query}"</script>""",
}


@needs_browser
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_page_of_another_origin_changes_nothing(door: Door, pages: Pages, tmp_path: Path, attack: str) -> None:
    before = door.backup_schedule()
    assert before["status"] == "RUNNING"
    stop = STOP.format(id=before["id"])
    query = "".join(f"%{byte:02x}" for byte in stop.encode())
    pages.html = ATTACKS[attack].format(
        url=door.url, query=query, body=json.dumps({"query": stop}).replace("'", "&#39;")
    )
    browse(pages.url, tmp_path)
    assert door.backup_schedule()["status"] == "RUNNING"


@needs_browser
def test_a_websocket_of_another_origin_is_closed(door: Door, pages: Pages, tmp_path: Path) -> None:
    pages.html = f"""<p id=p>waiting</p><script>
      const s = new WebSocket("ws://127.0.0.1:{door.port}/graphql", "graphql-ws");
      s.onopen = () => {{ p.textContent = "it is open" }}; s.onerror = () => {{ p.textContent = "it is closed" }}
    </script>"""
    assert "it is closed" in browse(pages.url, tmp_path)


@needs_browser
def test_a_name_that_is_rebound_to_this_machine_reads_nothing(door: Door, tmp_path: Path) -> None:
    page = browse(f"http://evil.example:{door.port}/runs", tmp_path, "--host-resolver-rules=MAP evil.example 127.0.0.1")
    assert "host-not-allowed" in page
    assert "Dagster" not in page


@needs_browser
def test_our_own_page_works_and_nobody_frames_it(door: Door, pages: Pages, tmp_path: Path) -> None:
    page = browse(f"{door.url}/locations", tmp_path, "--virtual-time-budget=60000")
    assert "refresh_pipeline" in page
    answer = httpx.get(f"{door.url}/runs")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers.get_list("content-security-policy")[-1]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/graphql?query={__typename}", {}, 405),
        ("POST", "/graphql?query={__typename}", {"content-type": "application/json"}, 400),
        ("POST", "/graphql", {"content-type": "text/plain"}, 415),
        ("POST", "/graphql", {"content-type": "application/json", "origin": "https://evil.example"}, 403),
        ("GET", "/runs", {"host": "evil.example"}, 421),
        ("POST", "/report_asset_materialization/demo/raw_candles", {}, 403),
    ],
)
def test_what_dagster_would_execute_is_refused(
    door: Door, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = httpx.request(method, f"{door.url}{path}", headers=headers, content=b'{"query": "{__typename}"}')
    assert answer.status_code == status


def test_another_user_of_this_machine_needs_the_key(locked_door: Door) -> None:
    assert httpx.post(f"{locked_door.url}/graphql", json={"query": "{__typename}"}).status_code == 401
    assert locked_door.ask("{__typename}") == {"__typename": "Query"}
    assert (
        httpx.get(f"{locked_door.url}/runs", headers={"accept": "text/html"}).headers["location"] == "/login?next=/runs"
    )


def test_a_door_to_other_machines_wants_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "refresh_pipeline.front_door", "-h", "0.0.0.0", "-w", str(ROOT / "workspace.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "REFRESH_API_KEY"} | {
        "HOME": str(tmp_path)
    }
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "set REFRESH_API_KEY" in answer.stderr
    assert "Traceback" not in answer.stderr
