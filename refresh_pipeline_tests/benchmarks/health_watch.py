"""What /health and /metrics of an API say second by second, while hosts and servers around it are killed.

Red is an answer other than 200, none within 20 s, or a figure of /metrics that a part is not ready. Candles that are
stale alone do not count: on a busy machine ticks are late while nothing is broken.
"""

import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

PATHS = ("/health", "/metrics")
PAUSE = 0.5
LATE = "freshness"
WORKERS = re.compile(r'^refresh_workers\{queue="dagster"\} (\d+)', re.MULTILINE)
NOT_READY = re.compile(r'^refresh_ready\{part="(\w+)"\} 0', re.MULTILINE)


@dataclass(frozen=True)
class Look:
    """One answer of one path: when it came, the parts that are not ready, and the workers that /metrics counts."""

    path: str
    at: float
    faults: Sequence[str]
    workers: int | None = None


@dataclass
class HealthWatch:
    """Looks at both paths from `start` until `stop`, each in a thread of its own."""

    url: str
    key: str
    looks: list[Look] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to look."""
        self._threads = [threading.Thread(target=self._watch, args=(path,), daemon=True) for path in PATHS]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def newest(self, path: str) -> Look | None:
        """The last answer of a path."""
        return next((look for look in reversed(self.looks) if look.path == path), None)

    def is_green(self) -> bool:
        """Whether both paths said last that all is well."""
        return all((look := self.newest(path)) is not None and not look.faults for path in PATHS)

    def first(self, path: str, since: float, *, red: bool) -> Look | None:
        """The first answer of a colour after an instant."""
        return next((e for e in list(self.looks) if e.path == path and e.at >= since and bool(e.faults) is red), None)

    def seconds(self, since: float, *, red: bool) -> list[float]:
        """Seconds from an instant to the first answer of a colour, of each path; infinite where there was none."""
        looks = [self.first(path, since, red=red) for path in PATHS]
        return [look.at - since if look else float("inf") for look in looks]

    def seconds_to_workers(self, count: int, since: float) -> float:
        """Seconds from an instant until /metrics counted so many workers."""
        found = (look.at - since for look in list(self.looks) if look.at >= since and look.workers == count)
        return next(found, float("inf"))

    def _watch(self, path: str) -> None:
        with httpx.Client(base_url=self.url, headers={"X-API-Key": self.key}, timeout=20, trust_env=False) as client:
            while not self._ended.wait(PAUSE):
                self.looks.append(_look(client, path))


def _look(client: httpx.Client, path: str) -> Look:
    try:
        answer = client.get(path)
    except httpx.HTTPError as error:
        return Look(path, time.monotonic(), [type(error).__name__])
    at, workers = time.monotonic(), WORKERS.search(answer.text)
    faults = NOT_READY.findall(answer.text)
    with suppress(ValueError, KeyError, TypeError):
        faults += [name for name, part in answer.json()["checks"].items() if not part["ok"]]
    if answer.status_code != 200 and not faults:
        faults = [str(answer.status_code)]
    broken = [name for name in faults if name != LATE]
    return Look(path, at, broken, int(workers[1]) if workers else None)
