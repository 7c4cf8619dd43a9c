"""When an alert or a report is due, and how it reads: decided from the problems now and the alerts already sent.

An alert is sent when a problem starts, repeated after 15, 30, 60 ... minutes (at most daily), and sent once more when
the problem is resolved. A problem that comes and goes is reported at most every 15 minutes. Nothing is sent or looked
up here.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum

from pydantic import AliasChoices, BaseModel, Field

# The scope of problems that belong to no market.
MACHINE = "machine"
COOLDOWN = timedelta(minutes=15)
LONGEST_SILENCE = timedelta(days=1)
# How long it is remembered that an event was told; none is looked for that is older.
EVENTS_KEPT = timedelta(days=7)
# Reports are sent from this hour on (UTC), the weekly ones on Mondays.
REPORT_HOUR = 6
# How many items of a kind a message names.
ITEMS_NAMED = 5
LONGEST_TEXT = 300


def _formerly(old: str, new: str) -> AliasChoices:
    # The sensor's cursor of an earlier release holds the old names; without them every alert would be sent again.
    return AliasChoices(new, old)


class Problem(BaseModel, frozen=True):
    """Something that is wrong: its scope (a market, or the machine), its kind, the item concerned, and a text."""

    scope: str = Field(validation_alias=_formerly("whose", "scope"))
    kind: str
    item: str = Field(default="", validation_alias=_formerly("which", "item"))
    text: str
    # Something that happened and is over: said once, never repeated or resolved.
    is_event: bool = False

    @property
    def subject(self) -> str:
        """The problem's identity: the same for as long as it lasts.

        >>> Problem(scope="crypto", kind="stale", item="BTC/USDT m1", text="newest candle: 12:00").subject
        'crypto: stale: BTC/USDT m1'
        """
        return ": ".join(part for part in (self.scope, self.kind, self.item) if part)


class SentAlert(BaseModel, frozen=True):
    """An alert that was sent for a problem: when it began, when it was last sent, how often, whether it is resolved."""

    problem: Problem = Field(validation_alias=_formerly("trouble", "problem"))
    since: datetime
    sent_at: datetime = Field(validation_alias=_formerly("at", "sent_at"))
    count: int = Field(default=1, validation_alias=_formerly("times", "count"))
    is_resolved: bool = Field(default=False, validation_alias=_formerly("is_over", "is_resolved"))

    @property
    def due_at(self) -> datetime:
        """The earliest instant of the next alert for this problem, its resolution excepted."""
        if self.is_resolved:
            return self.sent_at + COOLDOWN
        return self.sent_at + min(COOLDOWN * 2 ** min(self.count - 1, 10), LONGEST_SILENCE)


class Period(StrEnum):
    """How far a report looks back."""

    daily = "daily"
    weekly = "weekly"

    @property
    def length(self) -> timedelta:
        """The time between the beginning and the end of the period."""
        return timedelta(days=1 if self is Period.daily else 7)


class ChannelState(BaseModel, frozen=True):
    """What one channel has received: alerts by subject, the day of the last report of each period, a pause."""

    alerts: dict[str, SentAlert] = Field(default={}, validation_alias=_formerly("said", "alerts"))
    reports: dict[Period, date] = Field(default={}, validation_alias=_formerly("reported", "reports"))
    paused_until: datetime | None = Field(default=None, validation_alias=_formerly("silent_until", "paused_until"))


class Notification(BaseModel, frozen=True):
    """The content of one message, and the channel's state once the message is sent."""

    new: list[Problem]
    ongoing: list[SentAlert]
    resolved: list[SentAlert]
    state: ChannelState

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (self.new or self.ongoing or self.resolved)


def believed(state: ChannelState, now: datetime, longest_pause: timedelta) -> ChannelState:
    """The state without instants of the future, which a clock that was ahead has left behind."""
    alerts = {
        subject: alert.model_copy(update={"sent_at": min(alert.sent_at, now), "since": min(alert.since, now)})
        for subject, alert in state.alerts.items()
    }
    days = _report_days(now)
    reports = {period: min(day, days[period]) for period, day in state.reports.items()}
    paused = state.paused_until and min(state.paused_until, now + longest_pause)
    return state.model_copy(update={"alerts": alerts, "reports": reports, "paused_until": paused})


def notification(
    problems: Sequence[Problem], state: ChannelState, now: datetime, unchecked: Collection[str] = ()
) -> Notification:
    """The message that is due on a channel.

    Args:
        problems: all that is wrong.
        state: what the channel has received before.
        now: the instant.
        unchecked: markets that could not be looked at; their alerts are not taken for resolved.
    """
    current = {problem.subject: problem for problem in problems}
    sent = state.alerts
    new = [problem for problem in current.values() if _is_new(sent.get(problem.subject), now)]
    ongoing = [
        alert.model_copy(update={"problem": current[subject], "sent_at": now, "count": alert.count + 1})
        for subject, alert in sent.items()
        if subject in current and not alert.is_resolved and alert.due_at <= now and not alert.problem.is_event
    ]
    resolved = [
        alert.model_copy(update={"is_resolved": True})
        for subject, alert in sent.items()
        if subject not in current
        and not (alert.is_resolved or alert.problem.is_event)
        and alert.problem.scope not in unchecked
    ]
    kept = {
        subject: alert
        for subject, alert in sent.items()
        if (
            alert.sent_at > now - EVENTS_KEPT if alert.problem.is_event else not alert.is_resolved or alert.due_at > now
        )
    }
    changed = {alert.problem.subject: alert for alert in [*ongoing, *resolved]}
    begun = {problem.subject: SentAlert(problem=problem, since=now, sent_at=now) for problem in new}
    return Notification(
        new=new,
        ongoing=ongoing,
        resolved=resolved,
        state=state.model_copy(update={"alerts": {**kept, **changed, **begun}}),
    )


def _is_new(alert: SentAlert | None, now: datetime) -> bool:
    return alert is None or (alert.is_resolved and alert.due_at <= now)


def due_reports(state: ChannelState, now: datetime) -> list[Period]:
    """The reports to send now; none on a channel's first day, which has no period behind it."""
    return [period for period, day in _report_days(now).items() if state.reports.get(period, day) < day]


def with_reports(state: ChannelState, periods: Collection[Period], now: datetime) -> ChannelState:
    """The state of a channel that has received the reports of these periods."""
    sent = {period: day for period, day in _report_days(now).items() if period in periods}
    return state.model_copy(update={"reports": {**state.reports, **sent}})


def _report_days(now: datetime) -> dict[Period, date]:
    day = (now - timedelta(hours=REPORT_HOUR)).date()
    return {Period.daily: day, Period.weekly: day - timedelta(days=day.weekday())}


def title(message: Notification) -> str:
    """The message in one line, as a mail's subject.

    >>> stale = Problem(scope="crypto", kind="stale", item="BTC/USDT m1", text="newest candle: 12:00")
    >>> title(notification([stale], ChannelState(), datetime(2026, 1, 1)))
    'Refresh Pipeline: crypto: stale'
    """
    active = [*message.new, *(alert.problem for alert in message.ongoing)]
    heads = list(dict.fromkeys(_head(problem) for problem in active))
    if not heads:
        heads = [f"resolved: {head}" for head in dict.fromkeys(_head(alert.problem) for alert in message.resolved)]
    rest = f" and {len(heads) - 2} more" if len(heads) > 2 else ""
    return f"Refresh Pipeline: {', '.join(heads[:2])}{rest}"


def body(message: Notification) -> str:
    """The message in full: new, ongoing and resolved problems; of many items of a kind the first few by name."""
    ongoing = [alert.problem for alert in message.ongoing]
    lines = [*_lines("", message.new), *_lines("still ", ongoing)]
    return "\n".join([*lines, *_resolved_lines(message.resolved)])


def shortened(text: str) -> str:
    """A text on one line, cut at LONGEST_TEXT characters.

    >>> shortened("two  spaces")
    'two spaces'
    """
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 3]}..."


def _lines(prefix: str, problems: Sequence[Problem]) -> Iterable[str]:
    for head, group in _by_head(problems).items():
        if len(group) == 1:
            yield f"{prefix}{group[0].subject}: {group[0].text}"
            continue
        yield f"{prefix}{head} ({len(group)}):"
        yield from (f"  {problem.item}: {problem.text}" for problem in group[:ITEMS_NAMED])
        if len(group) > ITEMS_NAMED:
            yield f"  and {len(group) - ITEMS_NAMED} more; refresh alerts lists them"


def _resolved_lines(resolved: Sequence[SentAlert]) -> Iterable[str]:
    for head, group in _by_head([alert.problem for alert in resolved]).items():
        items = ", ".join(problem.item for problem in group[:ITEMS_NAMED] if problem.item)
        rest = f" and {len(group) - ITEMS_NAMED} more" if len(group) > ITEMS_NAMED else ""
        yield f"resolved: {head}{': ' if items else ''}{items}{rest}"


def _by_head(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(_head(problem), []).append(problem)
    return groups


def _head(problem: Problem) -> str:
    return f"{problem.scope}: {problem.kind}"
