"""People are told once when something begins, ever more rarely while it lasts, and once when it is over."""

from datetime import UTC, datetime, timedelta

import pytest

from refresh_pipeline.monitoring.notification_policy import (
    ChannelState,
    Notification,
    Period,
    Problem,
    believed,
    body,
    due_reports,
    notification,
    title,
    with_reports,
)

# A Friday.
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
STALE = Problem(scope="crypto", kind="stale", item="BTC/USDT m1", text="newest candle: 11:50")
DISK = Problem(scope="machine", kind="disk nearly full", item="/srv", text="3 bytes are free")


def told(minute: int, problems: list[Problem], state: ChannelState, unchecked: tuple[str, ...] = ()) -> Notification:
    return notification(problems, state, NOON + minute * MINUTE, unchecked)


def minutes_said(problems_at: dict[int, list[Problem]], minutes: int) -> dict[int, list[str]]:
    """What is said in each of so many minutes, given what is wrong from some minutes on."""
    state, problems, said = ChannelState(), [], {}
    for minute in range(minutes):
        problems = problems_at.get(minute, problems)
        fresh = told(minute, problems, state)
        state = fresh.state
        if not fresh.is_empty:
            said[minute] = body(fresh).splitlines()
    return said


def test_what_begins_is_said_at_once() -> None:
    fresh = told(0, [STALE], ChannelState())
    assert title(fresh) == "Refresh Pipeline: crypto: stale"
    assert body(fresh) == "crypto: stale: BTC/USDT m1: newest candle: 11:50"


def test_an_event_is_said_once_and_never_resolved() -> None:
    event = Problem(scope="crypto", kind="signal fractal up", item="BTC/USDT H1 12:00", text="known", is_event=True)
    said = minutes_said({0: [event, STALE], 30: [STALE], 90: [event, STALE]}, 120)
    lines = [line for of_minute in said.values() for line in of_minute if "signal" in line]
    assert lines == ["crypto: signal fractal up: BTC/USDT H1 12:00: known"]
    later = notification([], notification([event], ChannelState(), NOON).state, NOON + 8 * DAY)
    assert later.is_empty
    assert later.state.alerts == {}


def test_nothing_wrong_is_nothing_to_say() -> None:
    assert told(0, [], ChannelState()).is_empty


def test_what_lasts_is_said_ever_more_rarely_and_at_least_once_a_day() -> None:
    said = minutes_said({0: [STALE]}, 3 * 24 * 60)
    assert list(said) == [0, 15, 45, 105, 225, 465, 945, 1905, 3345]
    assert said[15] == ["still crypto: stale: BTC/USDT m1: newest candle: 11:50"]


def test_what_is_over_is_said_once() -> None:
    said = minutes_said({0: [STALE], 5: []}, 60)
    assert said == {
        0: ["crypto: stale: BTC/USDT m1: newest candle: 11:50"],
        5: ["resolved: crypto: stale: BTC/USDT m1"],
    }


def test_what_comes_and_goes_is_not_said_again_within_a_quarter_of_an_hour() -> None:
    coming_and_going = {minute: [STALE] if minute % 2 == 0 else [] for minute in range(30)}
    assert list(minutes_said(coming_and_going, 30)) == [0, 1, 16, 17]


def test_another_subject_has_a_quarter_of_an_hour_of_its_own() -> None:
    assert minutes_said({0: [STALE], 1: [STALE, DISK]}, 5)[1] == ["machine: disk nearly full: /srv: 3 bytes are free"]


def test_of_what_could_not_be_looked_up_nothing_is_said_to_be_over() -> None:
    state = told(0, [STALE, DISK], ChannelState()).state
    fresh = told(1, [], state, unchecked=("crypto",))
    assert [alert.problem for alert in fresh.resolved] == [DISK]
    assert [alert.problem for alert in told(2, [], fresh.state).resolved] == [STALE]


def test_what_has_been_over_for_long_is_forgotten() -> None:
    state = told(1, [], told(0, [STALE], ChannelState()).state).state
    assert list(state.alerts) == [STALE.subject]
    assert told(20, [], state).state == ChannelState()


def test_many_things_of_a_kind_are_counted_and_a_few_named() -> None:
    many = [STALE.model_copy(update={"item": f"S{number} m1"}) for number in range(7)]
    lines = body(told(0, many, ChannelState())).splitlines()
    assert lines[0] == "crypto: stale (7):"
    assert lines[1] == "  S0 m1: newest candle: 11:50"
    assert lines[-1] == "  and 2 more; refresh alerts lists them"
    assert len(lines) == 7
    over = told(1, [], told(0, many, ChannelState()).state)
    assert body(over) == "resolved: crypto: stale: S0 m1, S1 m1, S2 m1, S3 m1, S4 m1 and 2 more"
    assert title(over) == "Refresh Pipeline: resolved: crypto: stale"


def test_what_is_remembered_survives_as_json() -> None:
    state = with_reports(told(0, [STALE], ChannelState()).state, list(Period), NOON)
    assert ChannelState.model_validate_json(state.model_dump_json()) == state


# ---- reports


def reports_sent(begin: datetime, hours: int) -> list[tuple[str, str]]:
    state, sent = ChannelState(), []
    for hour in range(hours):
        now = begin + timedelta(hours=hour)
        sent += [(period.value, f"{now:%a %H}") for period in due_reports(state, now)]
        state = with_reports(state, list(Period), now)
    return sent


def test_a_report_each_morning_and_one_on_mondays() -> None:
    sent = reports_sent(NOON, 5 * 24)
    assert sent == [("daily", day) for day in ("Sat 06", "Sun 06", "Mon 06")] + [
        ("weekly", "Mon 06"),
        ("daily", "Tue 06"),
        ("daily", "Wed 06"),
    ]


def test_a_report_that_was_missed_is_sent_later_once() -> None:
    state = with_reports(ChannelState(), list(Period), NOON)
    assert due_reports(state, NOON + 10 * DAY) == [Period.daily, Period.weekly]


def test_one_report_that_was_sent_is_not_sent_again_for_the_other() -> None:
    state = with_reports(ChannelState(), list(Period), NOON)
    monday = NOON + 3 * DAY
    assert due_reports(with_reports(state, [Period.daily], monday), monday) == [Period.weekly]


@pytest.mark.parametrize("period", list(Period))
def test_a_report_looks_back_to_the_one_before(period: Period) -> None:
    assert period.length == {Period.daily: DAY, Period.weekly: 7 * DAY}[period]


def test_alerts_of_a_clock_that_was_ahead_are_repeated_as_if_sent_now() -> None:
    ahead = told(26 * 60, [STALE], ChannelState()).state
    ahead = with_reports(ahead, list(Period), NOON + 26 * 60 * MINUTE)
    ahead = ahead.model_copy(update={"paused_until": NOON + 27 * 60 * MINUTE})
    state = believed(ahead, NOON, timedelta(hours=1))
    assert state.paused_until == NOON + 60 * MINUTE
    assert told(14, [STALE], state).is_empty
    assert not told(15, [STALE], state).is_empty
    assert Period.daily in due_reports(state, NOON + DAY)
