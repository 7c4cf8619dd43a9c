"""Many requests at once over a bounded number of connections; answers pass from the event loop to the caller."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, suppress
from queue import SimpleQueue
from typing import Any

from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError, failed
from refresh_pipeline.sources.http_client import CHUNKS_AHEAD, CONNECTIONS, RELEASED_AT_ONCE, Put, log


async def side_by_side(
    requests: Iterable[Request],
    chunks: Callable[[Request], AsyncGenerator[Fetched, None]],
    put: Put,
    connects_every: float = 0.0,
) -> None:
    """Answer requests, CONNECTIONS at a time and begun in their order; whatever goes wrong ends its own series only.

    A venue that minds how fast connections are opened gets one more every `connects_every` seconds, if there is work.
    """
    waiting = iter(requests)
    done = asyncio.Event()

    async def work() -> None:
        for request in waiting:
            await _answered(request, chunks, put)
        done.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())
            if connects_every:
                with suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), connects_every)
            if done.is_set():
                break


async def _answered(request: Request, chunks: Callable[[Request], AsyncGenerator[Fetched, None]], put: Put) -> None:
    started = time.monotonic()
    error: SourceError | None = None
    try:
        async with aclosing(chunks(request)) as arriving:
            async for fetched in arriving:
                await put(fetched)
    except SourceError as caught:
        error = caught
    except OSError as caught:
        error = TransientError(f"this machine failed: {type(caught).__name__}: {excerpt(str(caught))}")
    except Exception as caught:
        log.exception("%s: unexpected error", request.series)
        error = PermanentError(f"unexpected error, please report it: {type(caught).__name__}: {excerpt(str(caught))}")
    if error is not None:
        await put(failed(request, error, time.monotonic() - started))


async def put_failures(requests: Iterable[Request], error: SourceError, put: Put) -> None:
    """End all series with the same error."""
    for request in requests:
        await put(failed(request, error))


def in_background(produce: Callable[[Put], Coroutine[Any, Any, None]]) -> Iterator[Fetched]:
    """What a coroutine puts, one after another, while it goes on in a thread of its own.

    At most CHUNKS_AHEAD wait to be taken. A caller that stops taking cancels the coroutine and waits for its end.

    Raises:
        Exception: whatever the coroutine itself raised, after all that it had put.
    """
    handover = _Handover()
    thread = threading.Thread(target=handover.run, args=(produce,), name="fetching", daemon=True)
    thread.start()
    try:
        yield from handover.taken()
    finally:
        handover.stop()
        thread.join()


class _Handover:
    """A bounded queue from a coroutine in one thread to a plain loop in another."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Fetched | None] = SimpleQueue()
        self._room = asyncio.Semaphore(CHUNKS_AHEAD)
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._is_up = threading.Event()
        self._error: BaseException | None = None

    def run(self, produce: Callable[[Put], Coroutine[Any, Any, None]]) -> None:
        try:
            asyncio.run(self._produce(produce))
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._is_up.set()
            self._queue.put(None)

    def taken(self) -> Iterator[Fetched]:
        taken = 0
        while (item := self._queue.get()) is not None:
            taken += 1
            if taken % RELEASED_AT_ONCE == 0:
                self._call_in_loop(self._make_room)
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._is_up.wait()
        if self._task is not None:
            self._call_in_loop(self._task.cancel)

    async def _produce(self, produce: Callable[[Put], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._is_up.set()
        await produce(self._put)

    def _make_room(self) -> None:
        for _ in range(RELEASED_AT_ONCE):
            self._room.release()

    async def _put(self, item: Fetched) -> None:
        await self._room.acquire()
        self._queue.put(item)

    def _call_in_loop(self, message: Callable[[], object]) -> None:
        # Once the loop is closed there is nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(message)
