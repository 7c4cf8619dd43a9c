"""Where a venue's account is kept: a file that the processes of one machine share, or a Redis that machines share.

`rate_limits` says what is on an account. Each change reads and writes it whole, while nobody else can.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from filelock import FileLock, Timeout

from refresh_pipeline.settings import secret
from refresh_pipeline.sources import TransientError

if TYPE_CHECKING:
    from redis import Redis

LOCK_TIMEOUT = 10.0
SHARED_REDIS = "REFRESH_REDIS_URL"
# An account is kept for longer than a stated limit is believed.
KEPT_SECONDS = 2 * 24 * 3600
POLL_SECONDS = 0.003
# The account is written only while the lock is still ours, and freed with it.
WRITE_AND_FREE = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then redis.call('set', KEYS[2], ARGV[2], 'ex', ARGV[3]) end
redis.call('del', KEYS[1])
return 1
"""


class Draft(Protocol):
    """The account while it is held: what it was, and what it becomes."""

    before: bytes | None
    after: str


class Account(Protocol):
    """One venue's account."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    @property
    def remedy(self) -> str:
        """What lifts a pause, for messages."""
        ...

    def now(self) -> float:
        """Seconds since 1970, by a clock that is the same for everybody who shares the account."""
        ...

    def held(self) -> Any:
        """Hold the account for a block, which gets a Draft; `after` is stored at its end unless it is empty.

        Raises:
            TransientError: another process has held it for longer than 10 s, or it cannot be reached.
        """
        ...


def account_of(directory: Path, venue: str) -> Account:
    """A venue's account: in the Redis of REFRESH_REDIS_URL where that is set, else in this directory."""
    stem = re.sub(r"[^\w.-]+", "_", venue)
    url = secret(SHARED_REDIS)
    return RedisAccount(url, stem) if url else FileAccount(directory, stem)


class _Draft:
    def __init__(self, before: bytes | None) -> None:
        self.before, self.after = before, ""


class FileAccount:
    """A small file, and a lock beside it."""

    def __init__(self, directory: Path, stem: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{stem}.json"
        self._lock = FileLock(directory / f"{stem}.lock", timeout=LOCK_TIMEOUT, poll_interval=0.002)

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._path)

    @property
    def remedy(self) -> str:
        """See Account."""
        return f"to ask at once, delete {self._path}"

    def now(self) -> float:
        """This machine's clock."""
        return time.time()

    @contextmanager
    def held(self) -> Iterator[Draft]:
        """See Account."""
        try:
            self._lock.acquire()
        except Timeout:
            raise TransientError(
                f"wanted {self._lock.lock_file}, which another process has held for {LOCK_TIMEOUT:.0f} s; end the "
                "process if it hangs"
            ) from None
        try:
            draft = _Draft(self._path.read_bytes() if self._path.exists() else None)
            yield draft
            if draft.after:
                # Replaced as a whole: a process that is killed while writing leaves the old account behind.
                fresh = self._path.with_suffix(".new")
                fresh.write_text(draft.after)
                os.replace(fresh, self._path)
        finally:
            self._lock.release()


class RedisAccount:
    """A key in Redis, and a lock beside it that a killed holder loses after 10 s."""

    def __init__(self, url: str, stem: str) -> None:
        self._url, self.name = url, f"refresh:limit:{stem}"
        self._client: Redis | None = None
        self._ahead = 0.0

    @property
    def remedy(self) -> str:
        """See Account."""
        return f"to ask at once, delete the key {self.name} in the Redis of {SHARED_REDIS}"

    def now(self) -> float:
        """The server's clock: machines' own clocks may differ by more than a window's step."""
        self._connected()
        return time.time() + self._ahead

    @contextmanager
    def held(self) -> Iterator[Draft]:
        """See Account."""
        import redis  # noqa: PLC0415 (an optional package)

        lock, token = f"{self.name}:lock", uuid4().hex
        try:
            client = self._connected()
            self._acquire(client, lock, token)
            draft = _Draft(client.get(self.name))  # pyright: ignore[reportArgumentType]
            try:
                yield draft
            finally:
                is_ours = client.eval(WRITE_AND_FREE, 2, lock, self.name, token, draft.after, KEPT_SECONDS)
        except redis.RedisError as error:
            raise TransientError(
                f"wanted the account {self.name} in the Redis of {SHARED_REDIS}, found {type(error).__name__}; "
                "no request is made without it"
            ) from None
        if not is_ours:
            raise TransientError(f"the lock of {self.name} was lost after {LOCK_TIMEOUT:.0f} s; ask again")

    def _acquire(self, client: "Redis", lock: str, token: str) -> None:
        end = time.monotonic() + LOCK_TIMEOUT
        while not client.set(lock, token, nx=True, px=int(LOCK_TIMEOUT * 1000)):
            if time.monotonic() > end:
                raise TransientError(f"wanted {lock}, which others have held for {LOCK_TIMEOUT:.0f} s; ask again")
            time.sleep(POLL_SECONDS)

    def _connected(self) -> "Redis":
        if self._client is None:
            import redis  # noqa: PLC0415 (an optional package)

            try:
                client = redis.Redis.from_url(self._url, socket_timeout=5, socket_connect_timeout=5, protocol=2)
                seconds, microseconds = client.time()  # pyright: ignore[reportGeneralTypeIssues]
            except (redis.RedisError, ValueError) as error:
                raise TransientError(
                    f"wanted the Redis of {SHARED_REDIS} for the limits of venues, found {type(error).__name__}; no "
                    "request is made without it"
                ) from None
            self._ahead, self._client = seconds + microseconds / 1e6 - time.time(), client
        return self._client
