"""Candles from a live run's memory to other processes of the machine, before they are in the file: a door on loopback.

A file in the data folder names the door's port and two secrets: the subscriber shows one, the door the other, so that
neither takes a stranger for the other. A message is a line of JSON and the computed numbers behind it, as bytes: 487
series have a megabyte of them. Whoever misses one reads the file: nobody is waited for.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from refresh_pipeline.analytics.bars import Values
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Floats, Times
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.schema import Table

if TYPE_CHECKING:  # who listens computes no waves
    from refresh_pipeline.warehouse.live import Wave

log = logging.getLogger("refresh_pipeline")

LOOPBACK = "127.0.0.1"
# Seconds between two looks for doors, and for a subscriber to show its secret.
LOOK_EVERY, SECONDS_TO_SHOW = 0.5, 2.0
# Bytes of a message, and bytes that may wait for a subscriber before it is dropped.
LONGEST_LINE, MOST_WAITING = 64 * 1024 * 1024, 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pushed:
    """The newest candle of some series of one timeframe; `before` is the open time of each one's candle before it.

    `computed` holds the columns of enhanced candles and indicators, a value a series.
    """

    market: str
    series: Sequence[Series]
    open_time: Times
    before: Times
    candles: Mapping[str, Floats]
    sources: Sequence[str]
    computed: Mapping[Table, Mapping[str, Values]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Address:
    """What the file of a door says."""

    market: str
    port: int
    shown_by_subscriber: str
    shown_by_door: str


class PushDoor:
    """The door of one market's live run, open while the block runs; it sends from a thread of its own."""

    def __init__(self, folder: Path, market: str) -> None:
        self._folder, self._market = folder, market
        self._path = folder / f"{market}.json"
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._address: _Address | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="push", daemon=True)

    def __enter__(self) -> "PushDoor":
        """Open the door, then write its file."""
        self._thread.start()
        self._address = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        _write(self._path, self._address)
        return self

    def __exit__(self, *error: object) -> None:
        """Take the file away, unless a later run has written its own, and close the door."""
        if _read(self._path) == self._address:
            self._path.unlink(missing_ok=True)
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def subscribers(self) -> int:
        """How many processes are connected."""
        return len(self._writers)

    def push(self, waves: Sequence["Wave"]) -> None:
        """Send waves to whoever is connected; returns at once."""
        if self._writers:
            lines = b"".join(self._message(wave) for wave in waves)
            self._loop.call_soon_threadsafe(self._send, lines)

    def _message(self, wave: "Wave") -> bytes:
        layers = {Table.enhanced_candles: wave.enhanced, Table.indicators: wave.indicators}
        numbers, texts = _parted(layers)
        behind = b"".join(np.ascontiguousarray(values, "<f8").tobytes() for _, _, values in numbers)
        message = {
            "timeframe": wave.series[0].timeframe.value,
            "instruments": [each.instrument for each in wave.series],
            "open_time": wave.open_time.astype(np.int64),
            "before": wave.last_before.astype(np.int64),
            "candles": {name: np.ascontiguousarray(wave.candles[name]) for name in CANDLE_COLUMNS},
            "sources": list(wave.sources),
            "numbers": [(table, name) for table, name, _ in numbers],
            "texts": [(table, name, values.tolist()) for table, name, values in texts],
        }
        return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n" + behind

    def _send(self, lines: bytes) -> None:
        for writer in list(self._writers):
            if writer.transport.get_write_buffer_size() > MOST_WAITING:
                log.info("%s: a subscriber that does not read is dropped", self._market)
                self._writers.discard(writer)
                writer.transport.abort()
            else:
                writer.write(lines)

    async def _open(self) -> _Address:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        port = self._server.sockets[0].getsockname()[1]
        return _Address(self._market, port, secrets.token_hex(16), secrets.token_hex(16))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            shown = await asyncio.wait_for(reader.readline(), SECONDS_TO_SHOW)
            while self._address is None:
                await asyncio.sleep(LOOK_EVERY / 10)
            if not hmac.compare_digest(shown.strip(), self._address.shown_by_subscriber.encode()):
                return
            writer.write(self._address.shown_by_door.encode() + b"\n")
            self._writers.add(writer)
            # Nothing more is said: this ends with the connection.
            await reader.read()
        except (OSError, TimeoutError, ValueError, asyncio.CancelledError):
            # The subscriber has gone, or the door closes.
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def subscribe(folder: Path, take: Callable[[Pushed], None]) -> None:
    """Connect to every door that opens in a folder, and pass what is pushed on, until this is cancelled."""
    connected: dict[_Address, asyncio.Task[None]] = {}
    try:
        while True:
            doors = {address for path in _files(folder) if (address := _read(path)) is not None}
            for address in doors - connected.keys():
                connected[address] = asyncio.create_task(_listen(address, take))
            # A door that is closed is not asked again: a later one has other secrets.
            connected = {each: task for each, task in connected.items() if each in doors or not task.done()}
            await asyncio.sleep(LOOK_EVERY)
    finally:
        for task in connected.values():
            task.cancel()
        await asyncio.gather(*connected.values(), return_exceptions=True)


async def _listen(address: _Address, take: Callable[[Pushed], None]) -> None:
    with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(LOOPBACK, address.port, limit=LONGEST_LINE)
        try:
            writer.write(address.shown_by_subscriber.encode() + b"\n")
            shown = await asyncio.wait_for(reader.readline(), SECONDS_TO_SHOW)
            if hmac.compare_digest(shown.strip(), address.shown_by_door.encode()):
                while line := await reader.readline():
                    message = orjson.loads(line)
                    values = len(message["numbers"]) * len(message["instruments"])
                    numbers = np.frombuffer(await reader.readexactly(8 * values), "<f8")
                    take(_pushed(address.market, message, numbers.reshape(-1, len(message["instruments"]))))
        finally:
            writer.close()


# A table, a column's name and its values.
_Column = tuple[str, str, Values]


def _parted(layers: Mapping[Table, Mapping[str, Values]]) -> tuple[list[_Column], list[_Column]]:
    """The columns of numbers, and those of texts."""
    columns = [(table.value, name, values) for table, each in layers.items() for name, values in each.items()]
    is_text = [values.dtype == object for _, _, values in columns]
    parts = [[one for one, text in zip(columns, is_text, strict=True) if text is wanted] for wanted in (False, True)]
    return parts[0], parts[1]


def _pushed(market: str, message: Mapping, numbers: Floats) -> Pushed:
    timeframe = Timeframe(message["timeframe"])
    computed: dict[Table, dict[str, Values]] = {}
    for (table, name), values in zip(message["numbers"], numbers, strict=True):
        computed.setdefault(Table(table), {})[name] = values
    for table, name, values in message["texts"]:
        computed.setdefault(Table(table), {})[name] = np.array(values, dtype=object)
    return Pushed(
        market,
        [Series(name, timeframe) for name in message["instruments"]],
        np.array(message["open_time"], dtype=np.int64).astype(TIME_UNIT),
        np.array(message["before"], dtype=np.int64).astype(TIME_UNIT),
        {name: np.array(message["candles"][name], dtype=np.float64) for name in CANDLE_COLUMNS},
        message["sources"],
        computed,
    )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.json"))
    except OSError:
        return []


def _write(path: Path, address: _Address) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(address), file)
    part.replace(path)


def _read(path: Path) -> _Address | None:
    try:
        return _Address(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
