"""Rate limits of venues: one account per venue, which all processes of one machine, or of several, share.

`limit_accounts` says where an account is kept.

The HTTP client (`http_client`) sleeps until the account has room and reads the answers.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, Field, ValidationError

from refresh_pipeline.sources.limit_accounts import account_of

log = logging.getLogger(__name__)

# The window slides in this many steps; what was spent in a step stays on the account until all of it is too old.
STEPS = 60
# Held back for requests that are still under way when the venue's own window begins.
HELD_BACK = 20
# A process takes this share of the limit at once, so that most requests need no look at the file.
BLOCKS = 100
LIMIT_IS_FRESH_FOR = 24 * 3600.0
# Seconds that clocks of processes and steps of a correction may differ.
CLOCK_SLACK = 1.0
# Of what a venue asks for: whoever writes a week by mistake would silence it for everybody on this machine.
LONGEST_PAUSE = 3600.0
# A venue may state a limit within these multiples of the one that is known of it.
LOWEST_SHARE, HIGHEST_SHARE = 0.01, 10


class Limit(Protocol):
    """The account that a client asks before each request to the venue."""

    # Why the last `take` had to wait, for messages.
    because: str

    @property
    def remedy(self) -> str:
        """What lifts a pause, for messages."""
        ...

    def take(self, weight: int) -> float:
        """Take `weight` from the account: 0.0 when it was there, else the seconds after which to ask again."""
        ...

    def pause(self, seconds: float, because: str) -> None:
        """Pause all requests of this machine to the venue for so many seconds."""
        ...

    def close(self) -> None:
        """Return the unused part of what was taken."""
        ...


class _Account(BaseModel):
    """What the file holds. Instants are seconds since 1970, as the machine's clock tells them."""

    limit: int = 0
    learnt_at: float = 0.0
    # Weight by the number of the step in which it was spent.
    spent: dict[int, int] = Field(default_factory=dict)
    # The server's own figure plus what was taken since, and the end of the server's window.
    server_used: int = 0
    server_until: float = 0.0
    silent_until: float = 0.0
    # How long that pause was when it began; a day where an earlier release wrote the account.
    silent_for: float = 24 * 3600.0
    silent_because: str = ""


@dataclass(slots=True)
class _Block:
    """Weight on the account that this process has not spent yet; valid within its step."""

    step: int = 0
    weight: int = 0


class SharedLimit:
    """A venue's limit as a sliding window over weights, never above it and with 93 % of it usable.

    A process that is killed leaves nothing behind but what it had taken, which is forgotten after one window.
    """

    def __init__(
        self, directory: Path, venue: str, weight: int, seconds: float, clock: Callable[[], float] | None = None
    ) -> None:
        """An account of `weight` per `seconds` (until `learn` says otherwise).

        It is in `directory`, which is made, or in the Redis of REFRESH_REDIS_URL.
        """
        self._store = account_of(directory, venue)
        self._assumed = weight
        self._window = seconds
        self._clock = clock or self._store.now
        self._block = _Block()
        self._observed: tuple[int, float] | None = None
        # Why the last `take` had to wait, for messages.
        self.because = ""

    @property
    def remedy(self) -> str:
        """What lifts a pause."""
        return self._store.remedy

    def take(self, weight: int) -> float:
        """Take `weight` from the account: 0.0 when it was there, else the seconds after which to ask again.

        Raises:
            TransientError: another process has held the account for longer than 10 s.
        """
        now = self._clock()
        step = self._step(now)
        if self._block.step == step and self._block.weight >= weight:
            self._block.weight -= weight
            return 0.0
        with self._account(now) as account:
            wait = self._wait(account, weight, now)
            if wait == 0.0:
                self._block = _Block(step, self._put_down(account, weight, step) - weight)
            return wait

    def pause(self, seconds: float, because: str) -> None:
        """Pause all requests of this machine to the venue, an hour at most; a longer pause that runs already stays."""
        now, seconds = self._clock(), min(max(seconds, 0.0), LONGEST_PAUSE)
        with self._account(now) as account:
            if now + seconds > account.silent_until:
                account.silent_until, account.silent_for, account.silent_because = now + seconds, seconds, because
            # The venue has said when to come again; its count of the window adds nothing to that.
            account.server_used, account.server_until = 0, 0.0

    def observe_server_usage(self, used: int, ends_in: float) -> None:
        """Take over the server's count of its present window, other clients included; it ends in `ends_in` seconds."""
        self._observed = (used, self._clock() + ends_in)

    def learn(self, weight: int) -> None:
        """Store the limit that the venue states, within a hundredth and ten times the one that is known."""
        now = self._clock()
        weight = min(max(weight, int(self._assumed * LOWEST_SHARE), 1), self._assumed * HIGHEST_SHARE)
        with self._account(now) as account:
            account.limit, account.learnt_at = weight, now

    def is_learnt(self) -> bool:
        """Whether the venue has stated its limit within the last day, to any process of this machine."""
        now = self._clock()
        with self._account(now) as account:
            return account.limit > 0 and 0 <= now - account.learnt_at < LIMIT_IS_FRESH_FOR

    def close(self) -> None:
        """Return the unused part of what was taken."""
        with self._account(self._clock()):
            pass

    def _step(self, now: float) -> int:
        return int(now / self._window * STEPS)

    def _expiry(self, step: int) -> float:
        return (step + 1) * self._window / STEPS + self._window

    def _usable(self, account: _Account) -> int:
        limit = account.limit or self._assumed
        return limit - limit // HELD_BACK

    def _wait(self, account: _Account, weight: int, now: float) -> float:
        if account.silent_until > now:
            self.because = account.silent_because
            return account.silent_until - now
        self.because = "the rate limit is used up"
        usable = self._usable(account)
        # What weighs more than the whole limit goes alone rather than never.
        need = min(weight, usable)
        if account.server_used + need > usable:
            return account.server_until - now
        too_much = sum(account.spent.values()) + need - usable
        wait = 0.0
        for step in sorted(account.spent):
            if too_much <= 0:
                break
            too_much -= account.spent[step]
            wait = self._expiry(step) - now
        return wait

    def _put_down(self, account: _Account, weight: int, step: int) -> int:
        usable = self._usable(account)
        free = usable - max(sum(account.spent.values()), account.server_used)
        block = max(weight, min(usable // BLOCKS, free))
        account.spent[step] = account.spent.get(step, 0) + block
        account.server_used += block
        return block

    @contextmanager
    def _account(self, now: float) -> Iterator[_Account]:
        with self._store.held() as draft:
            account = self._read(draft.before)
            self._settle(account, now)
            yield account
            # Written at the end of the block.
            draft.after = account.model_dump_json()

    def _settle(self, account: _Account, now: float) -> None:
        """Bring the account up to now: give back this process's block, add the server's count, drop what is too old."""
        step = self._step(now)
        if self._block.step in account.spent:
            account.spent[self._block.step] -= self._block.weight
            account.server_used = max(0, account.server_used - self._block.weight)
        self._block = _Block()
        # So is a pause, or a window, that ends later than any may.
        account.silent_until = min(account.silent_until, now + LONGEST_PAUSE)
        if account.server_until > now + 2 * self._window:
            account.server_used, account.server_until = 0, 0.0
        # A step of the future is from before the clock was set back; it would stay for ever.
        account.spent = {
            s: weight for s, weight in account.spent.items() if weight > 0 and s <= step + 1 and self._expiry(s) > now
        }
        self._believe_no_future(account, now)
        if account.server_until <= now:
            account.server_used, account.server_until = 0, 0.0
        self._add_observed(account, now)

    def _believe_no_future(self, account: _Account, now: float) -> None:
        """Shorten what was noted while the clock was ahead: no window and no pause lasts longer than it did then."""
        if account.silent_until > now + account.silent_for + CLOCK_SLACK:
            log.warning(
                "%s: the clock was set back; the pause lasts %.0f s at most", self._store.name, account.silent_for
            )
            account.silent_until = now + account.silent_for
        if account.server_until > now + self._window + CLOCK_SLACK:
            log.warning("%s: the clock was set back; the venue's count of the future is dropped", self._store.name)
            account.server_used, account.server_until = 0, 0.0

    def _add_observed(self, account: _Account, now: float) -> None:
        if self._observed is None:
            return
        used, until = self._observed
        until = min(until, now + self._window)
        self._observed = None
        if until > account.server_until + self._window / 2:
            account.server_used, account.server_until = used, until
        elif until > max(now, account.server_until - self._window / 2):
            account.server_used = max(account.server_used, used)

    def _read(self, written: bytes | None) -> _Account:
        if written is None:
            return _Account()
        try:
            return _Account.model_validate_json(written)
        except ValidationError:
            log.warning("%s is unreadable and starts empty: the usage of the last window is unknown", self._store.name)
            return _Account()


class Limits:
    """Several limits of one venue, all of them kept: so many a second and so many a day."""

    def __init__(self, limits: Sequence[SharedLimit]) -> None:
        """The scarcest first: what was taken of the ones before the one that says wait is lost."""
        self._limits = limits
        self.because = ""

    @property
    def remedy(self) -> str:
        """See Limit."""
        return self._limits[0].remedy

    def take(self, weight: int) -> float:
        """See Limit."""
        for limit in self._limits:
            if wait := limit.take(weight):
                self.because = limit.because
                return wait
        return 0.0

    def pause(self, seconds: float, because: str) -> None:
        """See Limit."""
        self._limits[0].pause(seconds, because)

    def close(self) -> None:
        """See Limit."""
        for limit in self._limits:
            limit.close()
