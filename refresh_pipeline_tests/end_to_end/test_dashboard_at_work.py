"""The dashboard over a real `refresh up`: actions are clicked in a browser, and results arrive on the page by push.

Actions against a stub, with every page and width, are in `api/test_dashboard.py`.
"""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import httpx
import pytest

from refresh_pipeline_tests.api.served import wait_for
from refresh_pipeline_tests.chromium import Tab, chromium, needs_chromium
from refresh_pipeline_tests.end_to_end.programs import PATIENCE, end_session, free_port, installed
from refresh_pipeline_tests.isolated_env import inside

pytestmark = needs_chromium

# Two series whose schedule seldom disturbs; what is computed is little.
MARKET = """
name: demo
source: {kind: demo, seed: 1}
calendar: crypto
instruments: [BTC/USD]
timeframes: [H1, H4]
history: 3d
indicators: {compute: [sma_10]}
"""
APIS = """
name: counters
allow_private: true
apis:
  counter: {category: numbers, url: "http://127.0.0.1:PORT/", every: 1d}
"""
SERIES, H1 = "/series/demo/BTC/USD/H1", "BTC/USD H1"
# Far above what a start takes on a busy machine.
STARTING = 400
# A busy server is asked again by the page, and the browser notes that it was busy.
BUSY = "the server responded with a status of 503"
# What the page showed before is still there: nothing was loaded anew.
KEPT = "window.kept === true"


@dataclass
class Stage:
    """A running `refresh up`, and a browser's tab on its dashboard."""

    process: "subprocess.Popen[str]"
    url: str
    tab: Tab

    def show(self, path: str, condition: str) -> None:
        self.tab.open(f"{self.url}{path}")
        self.tab.until(
            f"location.pathname === {json.dumps(path)} && !document.querySelector('.skeleton') && ({condition})"
        )
        self.tab.until("document.getElementById('connection').innerText === 'Live'")
        self.tab.evaluate("window.kept = true")

    def click(self, name: str, within: str = "document") -> None:
        """Click what has this name, as a person or a screen reader finds it."""
        found = f"""[...{within}.querySelectorAll("button, a, summary")].find(one => one.offsetParent !== null
          && (one.getAttribute("aria-label") ?? one.textContent).trim() === {json.dumps(name)})"""
        self.tab.until(f"{found} && !{found}.disabled")
        self.tab.evaluate(f"{found}.click()")

    def confirm(self, button: str, **fields: str) -> None:
        """Fill in the fields of a dialog and press its button."""
        self.tab.until("document.querySelector('dialog[open]')")
        for field, value in fields.items():
            self.tab.evaluate(f"document.getElementById('field-{field}').value = {json.dumps(value)}")
        self.click(button, "document.querySelector('dialog')")

    def arrives(self, condition: str) -> None:
        """Wait until the page shows it by itself, without a complaint."""
        self.tab.until(f"({condition}) && {KEPT}", PATIENCE)
        faults = [fault for fault in self.tab.faults() if BUSY not in fault]
        assert not faults, faults

    def ask(self, path: str) -> dict:
        return httpx.get(f"{self.url}{path}", timeout=60).raise_for_status().json()

    def idle(self) -> None:
        """Wait until no run is going."""
        going = ("queued", "not_started", "starting", "started", "canceling")
        wait_for(lambda: not [run for run in self.ask("/api/v1/runs")["runs"] if run["status"] in going], PATIENCE)


class Counter(ThreadingHTTPServer):
    """An API whose answer is another each time."""

    def __init__(self) -> None:
        numbers = count(1)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"number": next(numbers)}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the base class)
                """Nothing on the terminal."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@contextmanager
def refresh_up(folder: Path, api_port: int) -> Iterator["subprocess.Popen[str]"]:
    command = [installed("refresh"), "up", "--port", str(free_port()), "--api-port", str(api_port)]
    with open(folder / "output", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True, start_new_session=True)
        try:
            wait_for(lambda: "Ready" in (folder / "output").read_text() or process.poll() is not None, STARTING)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                end_session(process)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("at_work")
    counter, port = Counter(), free_port()
    for name, file, text in (
        ("markets", "demo.yaml", MARKET),
        ("apis", "counters.yaml", APIS.replace("PORT", str(counter.server_port))),
    ):
        (folder / name).mkdir()
        (folder / name / file).write_text(text)
    (folder / "home").mkdir()
    (folder / ".env").write_text(
        "REFRESH_MARKETS_DIR=markets\nREFRESH_APIS_DIR=apis\nREFRESH_APIS=counters\nREFRESH_API_RATE=100000\n"
    )
    with inside(folder), refresh_up(folder, port) as process, chromium() as tab:
        tab.size(1280, 900)
        stage = Stage(process, f"http://127.0.0.1:{port}", tab)
        # The web UI listens before it has loaded the code.
        wait_for(lambda: httpx.get(f"{stage.url}/api/v1/schedules", timeout=60).status_code == 200, STARTING)
        yield stage
    counter.shutdown()
    counter.server_close()


def test_a_refresh_turns_the_matrix_green(stage: Stage) -> None:
    stage.show("/", "document.querySelectorAll('.cell').length === 2")
    stage.click("Pause")
    stage.arrives("text.includes('paused')")
    stage.click("Refresh demo")
    stage.arrives("document.querySelectorAll('.cell.fresh').length === 2 && text.includes('Everything is up to date.')")
    stage.arrives("document.querySelector('.list-line .badge.success')")


def test_pausing_and_resuming_are_seen(stage: Stage) -> None:
    stage.show("/", "text.includes('Resume')")
    stage.click("Resume demo")
    stage.arrives("document.querySelector('[aria-label=\"Pause demo\"]')")
    stage.click("Pause")
    stage.arrives("document.querySelector('[aria-label=\"Resume demo\"]')")
    # The schedule stops first, and the sensors after it.
    wait_for(lambda: not [one for one in stage.ask("/api/v1/schedules")["schedules"] if _runs_demo(one)], PATIENCE)


def _runs_demo(schedule: dict) -> bool:
    return schedule["market"] == "demo" and schedule["running"]


def test_a_backfill_brings_older_candles_onto_the_chart(stage: Stage) -> None:
    stage.show(SERIES, "document.querySelector('.chart canvas')")
    before = stage.tab.evaluate("document.querySelector('.chart-foot').innerText")
    first = datetime.now(UTC) - timedelta(days=40)
    stage.click("Backfill")
    stage.confirm("Backfill", since=f"{first:%Y-%m-%d}", until=f"{first + timedelta(days=2):%Y-%m-%d}")
    stored = re.search(r"of (\d+) candles", before)
    assert stored
    number = int(stored[1]) + 48
    stage.arrives(f"document.querySelector('.chart-foot').innerText.includes('of {number} candles')")


def test_a_gap_is_filled(stage: Stage) -> None:
    stage.idle()
    stage.show("/gaps", f"[...document.querySelectorAll('button.day')].some(one => one.title.startsWith('{H1}'))")
    stage.click("Fill all")
    stage.arrives("text.includes('All 2 series are complete.')")
    # The status is read anew after two seconds at most; gaps are read each time.
    wait_for(lambda: _status_of(stage, "H1")["completeness"] == 1, PATIENCE)
    assert _status_of(stage, "H1")["candle_count"] >= 39 * 24


def _status_of(stage: Stage, timeframe: str) -> dict:
    [row] = [one for one in stage.ask("/api/v1/series")["series"] if one["timeframe"] == timeframe]
    return row


def test_files_are_published_verified_and_backed_up(stage: Stage) -> None:
    stage.idle()
    stage.show("/files", "text.includes('No export files')")
    stage.click("Publish")
    stage.confirm("Publish")
    stage.arrives("text.includes('demo/')")
    stage.click("Verify")
    stage.arrives("document.querySelector('.toast.success')?.innerText.includes('as the manifest says')")
    stage.click("Back up")
    stage.arrives("text.includes('Backups 1')")
    stage.click("Backups 1")
    stage.arrives("document.querySelector('.badge.ok') && text.includes('readable')")


def test_a_run_is_cancelled_and_asked_for_again(stage: Stage) -> None:
    stage.idle()
    body = {"markets": ["demo"], "since": "1990-01-01T00:00:00Z"}
    stage.show("/runs", "document.querySelector('tbody tr')")
    [run] = httpx.post(f"{stage.url}/api/v1/backfill", json=body, timeout=60).json()["runs"]
    stage.arrives("document.querySelector('.badge.started')")
    stage.click("Cancel")
    stage.arrives("document.querySelector('tbody tr .badge').innerText.includes('canceled')")
    assert stage.ask(f"/api/v1/runs/{run['run_id']}")["status"] == "canceled"
    [refresh] = [one for one in stage.ask("/api/v1/runs")["runs"] if one["job"] == "demo_refresh"][:1]
    stage.show(f"/runs/{refresh['run_id']}", "text.includes('Rows added')")
    stage.click("Again")
    stage.arrives("document.querySelector('.toast.success a')")
    stage.click("Show the run")
    stage.arrives("document.querySelector('.page-head .badge').innerText.includes('success')")


def test_schedules_are_switched(stage: Stage) -> None:
    stage.show("/settings", "document.querySelector('[aria-label=\"demo_publish runs\"]')")
    switch = "document.querySelector('[aria-label=\"backup runs\"]')?.getAttribute('aria-checked')"
    before = stage.tab.evaluate(switch)
    for wanted in ({"true": "false", "false": "true"}[before], before):
        stage.click("backup runs")
        stage.arrives(f"{switch} === '{wanted}'")


def test_apis_are_asked_added_changed_and_removed(stage: Stage) -> None:
    stage.idle()
    stage.show("/sources", "text.includes('counter')")
    column = "[...document.querySelectorAll('thead th')].findIndex(one => one.innerText.includes('Payloads'))"
    payloads = f"Number(document.querySelector('tbody tr').cells[{column}].innerText)"
    # The first tick asks it; then it is due in a day.
    stage.arrives(f"text.includes('success') && {payloads} > 0")
    before = int(str(stage.tab.evaluate(payloads)))
    for number in (1, 2):
        stage.click("Update")
        stage.arrives(f"text.includes('success') && {payloads} === {before + number}")
    stage.show("/sources/counter", f"document.querySelector('.plus') && text.includes('\"number\": {before + 2}')")
    stage.show("/sources", "text.includes('counter')")
    stage.click("Add an API")
    stage.confirm("Add", id="mine", name="My own", base_url="https://api.example/one", interval="60")
    stage.arrives("text.includes('My own')")
    mine = "[...document.querySelectorAll('tbody tr')].find(one => one.innerText.includes('My own'))"
    stage.click("mine is asked on schedule", mine)
    stage.arrives(f"{mine}.querySelector('[role=switch]').getAttribute('aria-checked') === 'false'")
    stage.click("1 min", mine)
    stage.confirm("Set", interval="120")
    stage.arrives(f"{mine}.innerText.includes('2 min')")
    stage.show("/sources/mine", "text.includes('No payload yet')")
    stage.click("Remove")
    stage.confirm("Remove")
    stage.arrives("location.pathname === '/sources' && !text.includes('My own')")


def test_the_page_outlives_the_api_and_the_web_ui(stage: Stage) -> None:
    stage.show("/runs", "document.querySelector('tbody tr')")
    kill(stage, "refresh_pipeline.api.serving")
    stage.tab.until("text.includes('Not connected')")
    stage.tab.until(
        "document.getElementById('connection').innerText === 'Live' && !text.includes('Not connected')", PATIENCE
    )
    stage.tab.faults()
    kill(stage, "refresh_pipeline.front_door")
    stage.click("Failed")
    stage.tab.until("text.includes('Runs are not known')")
    stage.tab.faults()
    stage.click("All")
    stage.tab.until("document.querySelector('tbody tr')", PATIENCE)
    assert stage.tab.evaluate(KEPT)
    assert stage.process.poll() is None


def kill(stage: Stage, program: str) -> None:
    """Kill the program of `refresh up` that runs this module."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _runs(entry, program, stage.process.pid):
            os.kill(int(entry.name), signal.SIGKILL)
            return
    raise AssertionError(f"no process runs {program}")


def _runs(entry: Path, program: str, parent: int) -> bool:
    try:
        status = (entry / "status").read_text()
        return f"PPid:\t{parent}\n" in status and program in (entry / "cmdline").read_text().split("\0")
    except OSError:
        return False
