"""A headless Chromium, spoken to by its own protocol: pages are opened, asked, clicked and looked at."""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)")
PATIENCE = 60.0
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
OPTIONS += ["--hide-scrollbars", "--disable-background-networking", "--disable-component-update"]


class Tab:
    """A tab of the browser, and what its pages complained of."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, count(1)
        self._faults: list[str] = []
        self._scripts: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something; complaints of the page that come meanwhile are kept."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self._connection.recv(timeout=PATIENCE))).get("id") != number:
            self._note(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            self._faults.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self._faults.append(f"console: {[one.get('value') for one in found['args']]}")
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self._faults.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")

    def faults(self) -> list[str]:
        """Errors on the console, exceptions and violations of the content policy since the last question."""
        self.evaluate("1")
        found, self._faults = self._faults, []
        return found

    def run_first(self, *scripts: str) -> None:
        """Run these scripts before those of every page that is opened from now on, in place of the ones before."""
        for known in self._scripts:
            self.call("Page.removeScriptToEvaluateOnNewDocument", identifier=known)
        added = [self.call("Page.addScriptToEvaluateOnNewDocument", source=script) for script in scripts]
        self._scripts = [one["identifier"] for one in added]

    def open(self, url: str) -> None:
        """Open a page; what shows that it is there is for `until`."""
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = PATIENCE) -> None:
        """Return once a condition holds; in it `text` is what the page shows."""
        expression = f"(() => {{ const text = document.body?.innerText ?? ''; return Boolean({condition}); }})()"
        deadline = time.monotonic() + seconds
        while not self._holds(expression):
            shown = self.evaluate("document.body?.innerText ?? ''") if time.monotonic() > deadline else ""
            assert time.monotonic() < deadline, f"never: {condition}\nshown: {shown[:2000]}"
            time.sleep(0.05)

    def _holds(self, expression: str) -> bool:
        # A page that is just being replaced has nothing to ask.
        with suppress(RuntimeError):
            return bool(self.evaluate(expression))
        return False

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and the colours that the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call(
            "Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        )

    def picture(self) -> bytes:
        """What is to be seen now, as PNG."""
        return b64decode(self.call("Page.captureScreenshot")["data"])


@contextmanager
def chromium(*options: str) -> Iterator[Tab]:
    """A tab of a browser with an empty profile and further options, gone afterwards."""
    assert PROGRAM
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        command = [PROGRAM, *OPTIONS, *options, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            tabs = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{_port(Path(folder))}/json").read())
            page = next(tab for tab in tabs if tab["type"] == "page")
            # Nobody reads while no test asks the tab: the answer to a ping would be late behind the page's events.
            with connect(page["webSocketDebuggerUrl"], max_size=None, ping_interval=None) as connection:
                yield Tab(connection)
        finally:
            process.terminate()
            process.wait(30)


def _port(folder: Path) -> int:
    """The port that the browser has chosen: it writes it down once it listens."""
    file, deadline = folder / "DevToolsActivePort", time.monotonic() + PATIENCE
    while not file.exists() or "\n" not in file.read_text():
        assert time.monotonic() < deadline, "the browser does not start"
        time.sleep(0.05)
    return int(file.read_text().splitlines()[0])
