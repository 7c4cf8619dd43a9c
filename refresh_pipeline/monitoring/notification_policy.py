"""When people are told what: given what is wrong now and what was said before. Nothing is sent or looked up here.

A trouble is said when it begins, and once more when it is over. While it lasts it is said again after a quarter of an
hour, then after twice as long each time, a day at most. A subject that was just spoken of is left alone for a quarter
of an hour, however often it comes and goes.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel

COOLDOWN = timedelta(minutes=15)
LONGEST_SILENCE = timedelta(days=1)
# Reports are sent from this hour on (UTC), the weekly ones on Mondays.
REPORT_HOUR = 6
# How many things of a kind a message names.
NAMED = 5


class Problem(BaseModel, frozen=True):
    """Something that is wrong: of whom (a market, or the machine), what kind of thing, which one, and in words."""

    whose: str
    kind: str
    which: str = ""
    text: str

    @property
    def subject(self) -> str:
        """What it is about, the same for as long as it lasts.

        >>> Problem(whose="crypto", kind="stale", which="BTC/USDT m1", text="newest candle: 12:00").subject
        'crypto: stale: BTC/USDT m1'
        """
        return ": ".join(part for part in (self.whose, self.kind, self.which) if part)


class SentAlert(BaseModel, frozen=True):
    """A trouble that people were told of: when last, how often since it began, and whether it is over."""

    trouble: Problem
    since: datetime
    at: datetime
    times: int = 1
    is_over: bool = False

    @property
    def due_at(self) -> datetime:
        """Until when nothing more is said of it, but that it is over."""
        if self.is_over:
            return self.at + COOLDOWN
        return self.at + min(COOLDOWN * 2 ** min(self.times - 1, 10), LONGEST_SILENCE)


class Period(StrEnum):
    """How far a report looks back."""

    daily = "daily"
    weekly = "weekly"

    @property
    def length(self) -> timedelta:
        """From its beginning to its end."""
        return timedelta(days=1 if self is Period.daily else 7)


class ChannelState(BaseModel, frozen=True):
    """What one channel has been told, by subject, when its last reports ended, and until when it is left alone."""

    said: dict[str, SentAlert] = {}
    reported: dict[Period, date] = {}
    silent_until: datetime | None = None


class Notification(BaseModel, frozen=True):
    """What to say now, and what is remembered once it is said."""

    new: list[Problem]
    lasting: list[SentAlert]
    over: list[SentAlert]
    memory: ChannelState

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.new or self.lasting or self.over)


def notification(
    troubles: Sequence[Problem], memory: ChannelState, now: datetime, unseen: Collection[str] = ()
) -> Notification:
    """What to say of these troubles.

    Args:
        troubles: all that is wrong.
        memory: of what the channel was told before.
        now: the instant.
        unseen: whose troubles could not be looked up: what was said of them stands.
    """
    wrong = {each.subject: each for each in troubles}
    known = memory.said
    new = [each for each in wrong.values() if _is_new(known.get(each.subject), now)]
    lasting = [
        said.model_copy(update={"trouble": wrong[subject], "at": now, "times": said.times + 1})
        for subject, said in known.items()
        if subject in wrong and not said.is_over and said.due_at <= now
    ]
    over = [
        said.model_copy(update={"is_over": True})
        for subject, said in known.items()
        if subject not in wrong and not said.is_over and said.trouble.whose not in unseen
    ]
    kept = {key: said for key, said in known.items() if not said.is_over or said.due_at > now}
    changed = {said.trouble.subject: said for said in [*lasting, *over]}
    begun = {each.subject: SentAlert(trouble=each, since=now, at=now) for each in new}
    return Notification(
        new=new, lasting=lasting, over=over, memory=memory.model_copy(update={"said": {**kept, **changed, **begun}})
    )


def _is_new(said: SentAlert | None, now: datetime) -> bool:
    return said is None or (said.is_over and said.due_at <= now)


def due_reports(memory: ChannelState, now: datetime) -> list[Period]:
    """The reports that are to be sent; none on a channel's first day, of which there is nothing to tell."""
    return [period for period, day in _report_days(now).items() if memory.reported.get(period, day) < day]


def reported(memory: ChannelState, periods: Collection[Period], now: datetime) -> ChannelState:
    """The memory of a channel that has had its reports of these periods."""
    done = {period: day for period, day in _report_days(now).items() if period in periods}
    return memory.model_copy(update={"reported": {**memory.reported, **done}})


def _report_days(now: datetime) -> dict[Period, date]:
    day = (now - timedelta(hours=REPORT_HOUR)).date()
    return {Period.daily: day, Period.weekly: day - timedelta(days=day.weekday())}


def title(told: Notification) -> str:
    """The message in a line: a mail's subject.

    >>> stale = Problem(whose="crypto", kind="stale", which="BTC/USDT m1", text="newest candle: 12:00")
    >>> title(notification([stale], ChannelState(), datetime(2026, 1, 1)))
    'Refresh Pipeline: crypto: stale'
    """
    heads = list(dict.fromkeys(_head(each) for each in [*told.new, *(said.trouble for said in told.lasting)]))
    if not heads:
        heads = [f"over: {each}" for each in dict.fromkeys(_head(said.trouble) for said in told.over)]
    more = f" and {len(heads) - 2} more" if len(heads) > 2 else ""
    return f"Refresh Pipeline: {', '.join(heads[:2])}{more}"


def body(told: Notification) -> str:
    """The message in full: what is new, what lasts, what is over; of many things of a kind the first few by name."""
    lasting = [said.trouble for said in told.lasting]
    lines = [*_lines("", told.new), *_lines("still ", lasting)]
    return "\n".join([*lines, *_over(told.over)])


def _lines(prefix: str, troubles: Sequence[Problem]) -> Iterable[str]:
    for head, own in _by_head(troubles).items():
        if len(own) == 1:
            yield f"{prefix}{own[0].subject}: {own[0].text}"
            continue
        yield f"{prefix}{head} ({len(own)}):"
        yield from (f"  {each.which}: {each.text}" for each in own[:NAMED])
        if len(own) > NAMED:
            yield f"  and {len(own) - NAMED} more; refresh alerts lists them"


def _over(over: Sequence[SentAlert]) -> Iterable[str]:
    for head, own in _by_head([said.trouble for said in over]).items():
        named = ", ".join(each.which for each in own[:NAMED] if each.which)
        more = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
        yield f"recovered: {head}{': ' if named else ''}{named}{more}"


def _by_head(troubles: Sequence[Problem]) -> dict[str, list[Problem]]:
    groups: dict[str, list[Problem]] = {}
    for each in troubles:
        groups.setdefault(_head(each), []).append(each)
    return groups


def _head(trouble: Problem) -> str:
    return f"{trouble.whose}: {trouble.kind}"
