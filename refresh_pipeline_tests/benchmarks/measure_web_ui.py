"""Measures Dagster's web UI over a wide market in a real browser: how long each page takes, and what it asks for.

Run as `python -m refresh_pipeline_tests.benchmarks.measure_web_ui [instruments] [folder] [browser]`, with Chromium
installed; screenshots stay in the folder. The figures are in docs/decisions/0076-the-web-ui-at-25000-partitions.md.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import dagster as dg
from websockets.sync.client import ClientConnection, connect

from refresh_pipeline.market.model import Market
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.orchestration.partitions import whole
from refresh_pipeline.orchestration.schedules import tick_request
from refresh_pipeline.pipeline.job_names import refresh_job_name
from refresh_pipeline.settings import load_settings, prepare_dagster, shipped
from refresh_pipeline_tests.benchmarks.measuring import seconds
from refresh_pipeline_tests.benchmarks.minute.processes import memory_of, tree
from refresh_pipeline_tests.end_to_end.programs import end_session, free_port
from refresh_pipeline_tests.isolated_env import inside

INSTRUMENTS, FOLDER, BROWSER = 5000, "build/web-ui", "chromium"
NOW = datetime(2026, 1, 7, 12, 0, 30, tzinfo=UTC)
RUNS = 2
YAML = """
name: ui
source: {{kind: demo}}
calendar: crypto
instruments: [{instruments}]
timeframes: [m1, m5, m15, H1, D1]
history: {{m1: 10m, m5: 30m, m15: 1h, H1: 4h, D1: 3d}}
indicators: {{compute: [sma_10, mfi]}}
"""
# What to do on a page by hand: choose one partition of each dimension by its name.
CHOOSE = """
const choose = name => [...document.querySelectorAll('div, span')]
  .findLast(each => each.textContent === name && !each.children.length).click()
choose('S0003')
setTimeout(() => choose('m5'), 100)
"""
# Each page: its path (none: the one before), what is done there, and what holds once it shows what one comes for.
PAGES = {
    "partitions": ("/assets/ui/raw_candles?view=partitions", "", "/Materialized .[1-9]/.test(text)"),
    "one partition": ("", CHOOSE, "text.includes('candle_count')"),
    "overview": ("/assets/ui/raw_candles?view=overview", "", "text.includes('candle_count')"),
    "lineage": ("/assets/ui/indicators?view=lineage", "", "/[0-9] partitions/.test(text)"),
    "lineage of everything": ("/asset-groups", "", "text.includes('enhanced_candles')"),
    "runs": ("/runs", "", "text.includes('ui_refresh')"),
}
LONGEST = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One question of a page to the server: its name, seconds, and bytes of the answer."""

    operation: str
    seconds: float
    bytes: int


class Browser:
    """A tab of a headless Chromium, spoken to by its own protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = count(1)
        self._events: list[dict[str, Any]] = []
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something; what else the browser says meanwhile is kept."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (said := json.loads(self._connection.recv(timeout=LONGEST))).get("id") != number:
            self._events.append(said)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    def open(self, url: str | None, script: str, condition: str) -> tuple[float, list[Answer]]:
        """Seconds until a condition holds, of `text`, what the page shows; and what it asked the server for."""
        self._events.clear()
        began = time.perf_counter()
        if url:
            self.call("Page.navigate", url=url)
        self.call("Runtime.evaluate", expression=script)
        expression = f"(() => {{ const text = document.body ? document.body.innerText : ''; return {condition}; }})()"
        while time.perf_counter() - began < LONGEST:
            if self.call("Runtime.evaluate", expression=expression)["result"].get("value"):
                break
            time.sleep(0.05)
        taken = time.perf_counter() - began
        # What is still asked for then belongs to the page as well.
        time.sleep(3)
        self.call("Runtime.evaluate", expression="1")
        return taken, list(self._answers())

    def _answers(self) -> Iterator[Answer]:
        asked: dict[str, tuple[str, float]] = {}
        for event in self._events:
            method, said = event.get("method"), event.get("params", {})
            if method == "Network.requestWillBeSent" and "/graphql" in said["request"]["url"]:
                body = json.loads(said["request"].get("postData") or "{}")
                asked[said["requestId"]] = (body.get("operationName", "?"), said["timestamp"])
            if method == "Network.loadingFinished" and said["requestId"] in asked:
                name, since = asked.pop(said["requestId"])
                yield Answer(name, said["timestamp"] - since, int(said["encodedDataLength"]))
        for name, _ in asked.values():
            yield Answer(f"{name} (no answer yet)", 0.0, 0)

    def picture(self, file: Path) -> None:
        """What is to be seen now."""
        file.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(program: str, folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile, gone afterwards."""
    port = free_port()
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1500,1000"]
    command += [f"--remote-debugging-port={port}", f"--user-data-dir={folder}", "about:blank"]
    with (
        (folder.parent / "browser.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True) as process,
    ):
        try:
            tabs = json.loads(_answered(f"http://127.0.0.1:{port}/json"))
            page = next(tab for tab in tabs if tab["type"] == "page")
            with connect(page["webSocketDebuggerUrl"], max_size=None) as connection:
                yield Browser(connection)
        finally:
            end_session(process)


@contextmanager
def web_server(folder: Path) -> Iterator[tuple[str, int]]:
    """Dagster's web server alone, as `refresh up` starts it: its address and process id."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port)]
    with (
        (folder / "web.log").open("w") as log,
        subprocess.Popen(
            [*command, "-w", str(shipped("workspace.yaml"))], stdout=log, stderr=log, text=True, start_new_session=True
        ) as process,
    ):
        try:
            _answered(f"http://127.0.0.1:{port}/server_info")
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            end_session(process)


def _answered(url: str) -> bytes:
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            return response.read()
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {LONGEST:.0f} s")


def set_up(folder: Path, instruments: int) -> None:
    """What a user writes: a market's YAML, and two settings."""
    (folder / "home").mkdir(parents=True)
    (folder / "markets").mkdir()
    (folder / ".env").write_text("REFRESH_MARKETS=ui\nREFRESH_MARKETS_DIR=markets\n")
    names = ", ".join(f"S{number:04d}" for number in range(instruments))
    (folder / "markets" / "ui.yaml").write_text(YAML.format(instruments=names))


def refresh(market: Market, at: datetime) -> None:
    """One wide run of everything, in this process."""
    job = build(load_settings(), [market]).resolve_job_def(refresh_job_name(market))
    config = {
        "resources": {"run_options": {"config": {"now": at.isoformat()}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    with dg.DagsterInstance.get() as instance:
        done = job.execute_in_process(instance=instance, tags=dict(whole(market)), run_config=config)
        assert done.success


def main(instruments: int, folder: Path, program: str) -> None:
    """Refresh so wide a market in a folder where nobody has yet, then open page after page, each twice."""
    is_new = not (folder / "data").exists()
    if is_new:
        shutil.rmtree(folder, ignore_errors=True)
        set_up(folder, instruments)
    with inside(folder):
        settings = load_settings()
        [market] = load_markets(settings)
        prepare_dagster(settings)
        print(f"market read: {seconds(partial(load_markets, settings)):.2f} s")
        print(f"definitions built: {seconds(partial(build, settings, [market])):.2f} s")
        print(f"a tick's request: {seconds(partial(tick_request, market, None, NOW)) * 1000:.1f} ms")
        for number in range(RUNS if is_new else 0):
            taken = seconds(partial(refresh, market, NOW + timedelta(minutes=number)))
            print(f"run {number + 1} of {len(market.series)} series: {taken:.1f} s", flush=True)
        look(folder, program)


def look(folder: Path, program: str) -> None:
    """Every page, with what it asked for and what the server has by then."""
    with web_server(folder) as (address, pid), browser(program, folder / "profile") as tab:
        _say_memory("before any page", pid)
        for name, (path, script, condition) in PAGES.items():
            for attempt in ("first", "again") if path else ("first",):
                taken, answers = tab.open(address + path if path else None, script, condition)
                print(f"{name}, {attempt}: {taken:.2f} s" + (" (NOT SHOWN)" if taken > LONGEST else ""), flush=True)
                for each in sorted(answers, key=lambda one: -one.seconds)[:5]:
                    print(f"    {each.seconds:6.2f} s {each.bytes / 1000:9,.0f} kB  {each.operation}")
            tab.picture(folder / f"{name.replace(' ', '-')}.png")
        _say_memory("after all pages", pid)


def _say_memory(when: str, pid: int) -> None:
    megabytes = memory_of(tree(pid)).pss
    print(f"memory {when}: " + ", ".join(f"{kind} {each:.0f} MB" for kind, each in megabytes.items()), flush=True)


def _argument(arguments: Sequence[str], number: int, otherwise: str) -> str:
    return arguments[number] if len(arguments) > number else otherwise


if __name__ == "__main__":
    where = Path(_argument(sys.argv, 2, FOLDER)).absolute()
    main(int(_argument(sys.argv, 1, str(INSTRUMENTS))), where, _argument(sys.argv, 3, BROWSER))
