"""Servers in processes of their own and clients that ask them: what `benchmarks.api` measures with.

A server's cost is the processor time of its process, which a busy machine changes least.
"""

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

CLIENTS = 4
STARTS_WITHIN, MOST_TRIES = 120.0, 30
# Bare Starlette, in three ways: the object encoded each time, the same bytes, and freqtrade's way with a data frame.
BARE = """
import sys
from pathlib import Path
import orjson, uvicorn
from starlette.responses import Response
kind, port, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
content = file.read_bytes()
if kind == "frame":
    import numpy as np, pandas as pd
    from fastapi import FastAPI
    from pydantic import BaseModel
    class History(BaseModel):
        strategy: str
        pair: str
        timeframe: str
        columns: list[str]
        all_columns: list[str] = []
        data: list[list]
        length: int
        last_analyzed: str
    class Encoded(Response):
        media_type = "application/json"
        def render(self, content):
            return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    body = orjson.loads(content)
    frame = pd.DataFrame(body["data"])
    frame["date"] = pd.to_datetime(frame.pop("open_time"))
    app = FastAPI(default_response_class=Encoded)
    @app.get("/pair_candles", response_model=History)
    def pair_candles():
        copied = frame.copy()
        copied["__date_ts"] = copied["date"].astype("int64") // 1000 // 1000
        copied["date"] = copied["date"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        copied = copied.replace({np.inf: None, -np.inf: None, np.nan: None})
        return {"strategy": "none", "pair": "S0000/USDT", "timeframe": "1m", "columns": list(copied.columns),
                "data": copied.values.tolist(), "length": len(copied), "last_analyzed": "2026-01-01"}
else:
    from starlette.applications import Starlette
    from starlette.routing import Route
    thing = orjson.loads(content) if kind == "object" else None
    async def answer(request):
        return Response(content if thing is None else orjson.dumps(thing), media_type="application/json")
    app = Starlette(routes=[Route("/", answer)])
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
"""


@dataclass(frozen=True)
class Server:
    """A running server: its process, where it answers, and the seconds from its start to the first answer."""

    process: "subprocess.Popen[bytes]"
    port: int
    started_in: float

    @property
    def processor_seconds(self) -> float:
        """The processor time that the threads of its process have had, of those that still run."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text(encoding="utf-8").split()[0]) for each in threads) / 1e9

    @property
    def megabytes(self) -> float:
        """Its share of memory (PSS)."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    def get(self, path: str) -> bytes:
        """The body of one answer.

        Raises:
            RuntimeError: it is none.
        """
        with closing(Connection(self.port)) as connection:
            return connection.get(path)


class Connection:
    """One client's connection, kept open."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def get(self, path: str) -> bytes:
        """The body of an answer; asks again where the server says so.

        Raises:
            RuntimeError: the status is another than 200, or again and again 503.
        """
        status, body = 0, b""
        for _ in range(MOST_TRIES):
            self._http.request("GET", path)
            answer = self._http.getresponse()
            status, body = answer.status, answer.read()
            if status == 200:
                return body
            if status != 503:
                break
            time.sleep(int(answer.headers["Retry-After"]))
        raise RuntimeError(f"{path}: {status} {body[:200]!r}")

    def close(self) -> None:
        """End it."""
        self._http.close()


@contextmanager
def serving(folder: Path, arguments: Sequence[str], path: str) -> Iterator[Server]:
    """A server while the block runs; `arguments` follow the interpreter, PORT in them is a free port.

    It is up once `path` is answered.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", *(each.replace("PORT", str(port)) for each in arguments)]
    began = time.perf_counter()
    with (folder / f"server-{port}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        while time.perf_counter() - began < STARTS_WITHIN:
            try:
                with closing(Connection(port)) as connection:
                    connection.get(path)
                break
            except (OSError, RuntimeError, http.client.HTTPException):
                if process.poll() is not None:
                    raise RuntimeError((folder / f"server-{port}.log").read_text(encoding="utf-8")) from None
                time.sleep(0.01)
        yield Server(process, port, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)


def api(folder: Path) -> AbstractContextManager[Server]:
    """The product's API over a folder, while the block runs."""
    return serving(folder, ["-m", "refresh_pipeline.api.serving", "127.0.0.1", "PORT"], "/api/v1/health")


def cost(server: Server, path: str, requests: int) -> float:
    """Processor seconds of the server for each of so many requests, of some clients at once."""
    before = server.processor_seconds

    def ask() -> None:
        with closing(Connection(server.port)) as connection:
            for _ in range(requests // CLIENTS):
                connection.get(path)

    at_once([ask] * CLIENTS)
    return (server.processor_seconds - before) / (requests // CLIENTS * CLIENTS)


def at_once(work: Sequence[Callable[[], object]]) -> None:
    """Each in a thread; returns when all have ended."""
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclass
class Load:
    """Requests in the background: so many a second of one client, or as fast as they are answered by several."""

    port: int
    paths: Sequence[str]
    rate: float | None = None
    clients: int = 1
    seconds: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    _ends: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        due = time.perf_counter()
        while not self._ends.is_set():
            began = time.perf_counter()
            connection.request("GET", self.paths[number % len(self.paths)])
            answer = connection.getresponse()
            answer.read()
            self.statuses.append(answer.status)
            self.seconds.append(time.perf_counter() - began)
            number += self.clients
            if self.rate is not None:
                due += 1 / self.rate
                self._ends.wait(max(due - time.perf_counter(), 0))
        connection.close()

    def percentile(self, number: int) -> float:
        """Seconds within which so many of a hundred requests were answered."""
        return quantiles(self.seconds, n=100)[number - 1]
