"""Whoever uses the pipeline meanwhile: API clients, a dashboard page, and programs that publish, backfill and back up.

Each looks at what it gets: a wrong candle, status or end is a fault. What is killed is `hour`'s part, and what must be
true of the warehouse at the end is `proof`'s.
"""

import http.client
import json
import random
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb
import numpy as np

from refresh_pipeline.market.model import Market
from refresh_pipeline_tests.end_to_end.programs import installed
from refresh_pipeline_tests.fakes.binance import INTERVALS_MS, FakeBinance
from refresh_pipeline_tests.soak import proof

CLIENTS = 30
# Seconds: between two requests of a client, between two chores, until an answer or an event is given up, on average.
BETWEEN_REQUESTS, BETWEEN_CHORES, PATIENCE = 2.0, 5.0, 60.0
# Statuses besides 200: nothing is stored yet, and a writer holds the file or a part is away.
EARLY, BUSY = 404, 503
# Chores that a soak does in turn; the last one reads what publishing wrote.
PUBLISH, BACKFILL, BACKUP = "publish", "backfill", "backup"
CHORES = (PUBLISH, BACKFILL, BACKUP)
# Different faults that are told; a program that fails does so again and again.
MOST_FAULTS = 20


class Faults:
    """What was wrong, each sentence once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.said: dict[str, int] = {}

    def add(self, sentence: str) -> None:
        """Note a fault."""
        with self._lock:
            if sentence in self.said or len(self.said) < MOST_FAULTS:
                self.said[sentence] = self.said.get(sentence, 0) + 1

    def sentences(self) -> list[str]:
        """Each fault, and how often it was seen."""
        return [f"{sentence} ({count} times)" for sentence, count in self.said.items()]


class Crowd:
    """Thirty clients, a page and chores at work, from `begin` to `end`."""

    def __init__(self, port: int, root: Path, market: Market, seed: int, began: datetime) -> None:
        """Nobody asks anything yet; `port` is that of the API, and `began` when history was fetched."""
        self._port, self._root, self._market, self._began = port, root, market, began
        self._over = threading.Event()
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults = Faults()
        # How many hours before `began` a backfill has succeeded in filling.
        self.filled_hours = 0
        self._asked_hours = 7
        self._work: list[Callable[[], None]] = [
            *(partial(self._be_client, random.Random(seed * 100 + number)) for number in range(CLIENTS)),
            self._be_page,
            self._do_chores,
        ]
        self._threads: list[threading.Thread] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Everybody at work; `end` or the end of the block stops them."""
        self._threads = [threading.Thread(target=work, daemon=True) for work in self._work]
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """Stop everybody after what they are at."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    # ---- clients

    def _be_client(self, chance: random.Random) -> None:
        while not self._over.wait(chance.expovariate(1 / BETWEEN_REQUESTS)):
            instrument, timeframe = (
                chance.choice(list(self._market.instruments)),
                chance.choice(self._market.timeframes),
            )
            name = instrument.replace("/", "")
            interval = {"m1": "1m", "m5": "5m"}[timeframe.value]
            klines = f"/binance/{self._market.name}/api/v3/klines?symbol={name}&interval={interval}&limit=50"
            path = chance.choice(
                (
                    klines,
                    f"/api/v1/data/{name}/{timeframe.value}?limit=20",
                    f"/api/v1/latest?timeframe={timeframe.value}",
                    "/api/v1/signals",
                    "/api/v1/status",
                )
            )
            body = self._answer(path)
            if body is not None and path == klines:
                for fault in kline_faults(name, interval, json.loads(body)):
                    self.faults.add(f"the API: {name} {interval}: {fault}")

    def _answer(self, path: str) -> bytes | None:
        """The body of an answer; None where the API is away or has none now."""
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                status, body = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.counts["no answer"] += 1
            if isinstance(error, TimeoutError):
                self.counts["late answer"] += 1
            return None
        self.counts[str(status)] += 1
        if status != 200:
            if status != BUSY and not (status == EARLY and not self.counts["page: candles"]):
                self.faults.add(f"the API answers {path.partition('?')[0]} with {status}: {body[:200]!r}")
            return None
        return body

    # ---- the page

    def _be_page(self) -> None:
        """Load the dashboard with its modules, and listen as it does; load it again when the API has been away."""
        while not self._over.wait(1.0):
            if (page := self._answer("/")) is None:
                continue
            for module in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.decode()):
                self._answer(module)
            self.counts["page: loads"] += 1
            try:
                self._listen()
            except (OSError, http.client.HTTPException, ValueError):
                self.counts["page: streams that ended"] += 1

    def _listen(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as connection:
            connection.request("GET", "/api/v1/events?topics=candles,runs,alerts")
            for line in connection.getresponse():
                if self._over.is_set():
                    return
                if line.startswith(b"data: "):
                    self._hear(json.loads(line[6:]))

    def _hear(self, message: Mapping[str, object]) -> None:
        kind = str(message.get("type"))
        self.counts["page: candles from memory" if message.get("live") else f"page: {kind}"] += 1

    # ---- chores

    def _do_chores(self) -> None:
        while not self._over.wait(self._random.expovariate(1 / BETWEEN_CHORES)):
            for chore in self._random.sample(CHORES, len(CHORES)):
                if not self._over.is_set():
                    self._do(chore)

    def _do(self, chore: str) -> int:
        code, said = self._program(*self._command(chore))
        self.counts[f"{chore}: {'done' if code == 0 else 'killed' if code == -9 else f'exit code {code}'}"] += 1
        if code == 0 and chore == BACKFILL:
            self.filled_hours, self._asked_hours = self._asked_hours, self._asked_hours + 1
        if "Traceback (most recent call last)" in said:
            self.faults.add(f"refresh {chore} ends with a traceback: {said[-400:]}")
        return code

    def _command(self, chore: str) -> Sequence[str]:
        if chore != BACKFILL:
            return [chore]
        since = self._began - timedelta(hours=self._asked_hours)
        return [chore, "--since", since.strftime("%Y-%m-%dT%H:%M:%SZ"), "-t", "m1"]

    def _program(self, *command: str) -> tuple[int, str]:
        done = subprocess.run(
            [installed("refresh"), *command], cwd=self._root, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    # ---- the end

    def prove(self) -> list[str]:
        """Everybody stops; each chore succeeds once more, as nothing is killed; what they made is right."""
        self.end()
        for chore in CHORES:
            if code := self._do(chore):
                self.faults.add(f"refresh {chore} ends with {code} although nothing is killed any more")
        code, said = self._program("exports", "verify")
        if code:
            self.faults.add(f"refresh exports verify ends with {code}: {said[-400:]}")
        return [*self.faults.sentences(), *self._backup_faults(), *use_faults(self.counts)]

    def _backup_faults(self) -> list[str]:
        copies = sorted((self._root / "data" / "backups").rglob("*.duckdb"), key=lambda path: path.stat().st_mtime)
        if not copies:
            return ["there is no backup"]
        with duckdb.connect(str(copies[-1]), read_only=True) as connection:
            found = proof.candle_faults(connection, self._market, self._began, self._began)
        return [f"the newest backup: {fault}" for fault in found]

    @property
    def filled_since(self) -> datetime:
        """From when on backfills have filled m1."""
        return self._began - timedelta(hours=self.filled_hours)

    def state(self) -> str:
        """What everybody has done, on one line."""
        return ", ".join(f"{count} x {name}" for name, count in sorted(self.counts.items()))


def kline_faults(symbol: str, interval: str, rows: Sequence[Sequence[str | int]]) -> list[str]:
    """What is wrong with klines of the API: each must be the venue's, after the one before it."""
    if not rows:
        return []
    opens = np.array([int(row[0]) for row in rows], dtype=np.int64)
    steps = np.diff(opens)
    truth = FakeBinance()._rows(symbol, interval, opens)
    wrong = [
        int(row[0])
        for row, served in zip(rows, truth, strict=True)
        if [float(cell) for cell in row[1:6]] != [float(cell) for cell in served[1:6]]
    ]
    faults = ["candles are not in order"] if (steps <= 0).any() else []
    faults += ["candles are missing"] if (steps > INTERVALS_MS[interval]).any() else []
    return [*faults, *(["candles are not the venue's"] if wrong else [])]


def use_faults(counts: Mapping[str, int]) -> list[str]:
    """What a soak that proves something has seen, and this one has not.

    >>> use_faults({"200": 900, "page: loads": 2, "page: candles": 5, "publish: done": 1, "backup: done": 1})
    ['backfill: it never succeeded']
    """
    wanted = {
        "200": "the API: no answer",
        "page: loads": "the page: never loaded",
        "page: candles": "the page: no news",
    }
    faults = [sentence for name, sentence in wanted.items() if not counts.get(name)]
    faults += [f"{chore}: it never succeeded" for chore in CHORES if not counts.get(f"{chore}: done")]
    return faults
