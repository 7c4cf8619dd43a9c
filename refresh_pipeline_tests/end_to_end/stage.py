"""A running `refresh up` with a browser's tab on its dashboard: what the tests of `test_up.py` share.

Starting it takes half a minute of processor time: whatever needs a running one belongs into that file.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import httpx

from refresh_pipeline_tests.api.served import wait_for
from refresh_pipeline_tests.chromium import Tab, chromium
from refresh_pipeline_tests.end_to_end.programs import PATIENCE, end_session, free_port, installed
from refresh_pipeline_tests.isolated_env import inside

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
# A name of somebody else that leads to this machine.
EVIL = ("--host-resolver-rules=MAP evil.example 127.0.0.1",)
# Far above what a start takes on a busy machine.
STARTING = 400
# A busy server is asked again by the page, and the browser notes that it was busy.
BUSY = "the server responded with a status of 503"
# What the page showed before is still there: nothing was loaded anew.
KEPT = "window.kept === true"


@dataclass
class Running:
    """A running `refresh up`: where, its process, and the addresses of the API and of Dagster's web UI."""

    folder: Path
    process: "subprocess.Popen[str]"
    url: str
    web_ui: str

    def ask(self, path: str) -> dict:
        return httpx.get(f"{self.url}{path}", timeout=60).raise_for_status().json()

    def idle(self) -> None:
        """Wait until no run is going."""
        going = ("queued", "not_started", "starting", "started", "canceling")
        wait_for(lambda: not [run for run in self.ask("/api/v1/runs")["runs"] if run["status"] in going], PATIENCE)

    def graphql(self, query: str) -> dict:
        """What Dagster's web UI answers."""
        answer = httpx.post(f"{self.web_ui}/graphql", json={"query": query}, timeout=60)
        return answer.raise_for_status().json()["data"]


@dataclass
class Stage(Running):
    """A running `refresh up`, and a browser's tab on its dashboard."""

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
def refresh_up(folder: Path, port: int, api_port: int) -> Iterator["subprocess.Popen[str]"]:
    """`refresh up` in the current folder, ready; what it prints is in its file `output`."""
    command = [installed("refresh"), "up", "--port", str(port), "--api-port", str(api_port)]
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


@contextmanager
def running_in(folder: Path) -> Iterator[Running]:
    """`refresh up` on a market and an API of this folder; schedules and code are loaded."""
    counter, port, api_port = Counter(), free_port(), free_port()
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
    with inside(folder), refresh_up(folder, port, api_port) as process:
        running = Running(folder, process, f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{port}")
        # The web UI listens before it has loaded the code.
        wait_for(lambda: httpx.get(f"{running.url}/api/v1/schedules", timeout=60).status_code == 200, STARTING)
        yield running
    counter.shutdown()
    counter.server_close()


@contextmanager
def browsed(running: Running) -> Iterator[Stage]:
    """The same with a browser."""
    with chromium(*EVIL) as tab:
        tab.size(1280, 900)
        yield Stage(**vars(running), tab=tab)


def kill(stage: Running, program: str) -> None:
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
