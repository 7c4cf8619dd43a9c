"""What must hold of a venue's account, whoever draws on it and whatever becomes of them."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from refresh_pipeline.sources import TransientError
from refresh_pipeline.sources.rate_limits import Limits, SharedLimit
from refresh_pipeline_tests.redis_server import redis_server

MINUTE = 60.0
NOON = 1_717_243_200.0
VENUE = "binance-127.0.0.1:8080"

HAMMERING = """
import sys
from pathlib import Path
from refresh_pipeline.sources.rate_limits import SharedLimit
limit = SharedLimit(Path(sys.argv[1]), sys.argv[2], 100, 60.0)
print("going", flush=True)
while True:
    limit.take(1)
    limit.close()
"""


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def account(directory: Path, clock: Clock, weight: int = 6000, venue: str = VENUE) -> SharedLimit:
    return SharedLimit(directory, venue, weight, MINUTE, clock)


def drained(limit: SharedLimit, weight: int = 2) -> int:
    taken = 0
    while limit.take(weight) == 0.0:
        taken += weight
    return taken


def frozen_time() -> float:
    return NOON


def drained_in_a_process_of_its_own(directory: Path) -> int:
    return drained(SharedLimit(directory, VENUE, 3000, MINUTE, frozen_time))


@pytest.mark.parametrize("weight", [20, 100, 1200, 6000])
def test_no_minute_ever_holds_more_than_the_limit_and_nine_tenths_of_it_can_be_used(
    tmp_path: Path, clock: Clock, weight: int
) -> None:
    both = [account(tmp_path, clock, weight), account(tmp_path, clock, weight)]
    chance = random.Random(weight)
    taken: list[tuple[float, int]] = []
    while clock.now < NOON + 10 * MINUTE:
        wait = chance.choice(both).take(2)
        if wait == 0.0:
            taken.append((clock.now, 2))
            clock.now += chance.uniform(0, 1 / weight)
        else:
            clock.now += wait
    starts = [NOON + 0.7 * step for step in range(int(9 * MINUTE / 0.7))]
    fullest = max(sum(w for at, w in taken if start <= at < start + MINUTE) for start in starts[::7])
    assert fullest <= weight
    assert sum(w for _, w in taken) >= 0.9 * weight * 10


def drained_by_three_processes(folders: list[Path]) -> list[int]:
    # Not a Pool, which terminates its processes: one that is hit while it takes a task keeps the lock from the rest.
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as processes:
        return list(processes.map(drained_in_a_process_of_its_own, folders))


def test_processes_share_one_account(tmp_path: Path) -> None:
    taken = drained_by_three_processes([tmp_path] * 3)
    assert 0.9 * 3000 <= sum(taken) <= 3000


def test_venues_have_accounts_of_their_own(tmp_path: Path, clock: Clock) -> None:
    drained(account(tmp_path, clock, 100))
    assert account(tmp_path, clock, 100, venue="oanda-api").take(1) == 0.0


def test_what_nobody_asks_for_any_more_is_forgotten_after_a_minute(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock, 100)
    drained(limit)
    wait = limit.take(2)
    assert MINUTE <= wait <= MINUTE + 1
    clock.now += wait
    assert limit.take(2) == 0.0


def test_what_others_used_by_the_servers_count_is_left_to_them(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock)
    limit.observe_server_usage(5000, ends_in=20.0)
    assert drained(limit) <= 1000
    assert limit.take(2) == pytest.approx(20.0)


def test_the_servers_count_ends_with_the_servers_minute(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock)
    limit.observe_server_usage(6000, ends_in=20.0)
    assert limit.take(2) > 0
    clock.now += 20.5
    assert drained(limit) >= 0.9 * 6000


def test_a_count_of_the_servers_new_minute_replaces_the_old_one(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock)
    limit.observe_server_usage(5999, ends_in=1.0)
    assert limit.take(2) > 0
    limit.observe_server_usage(1, ends_in=60.0)
    assert limit.take(2) == 0.0


def test_a_count_that_arrives_late_does_not_lower_what_is_known(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock)
    limit.observe_server_usage(5000, ends_in=20.0)
    limit.take(2)
    limit.observe_server_usage(100, ends_in=20.0)
    assert drained(limit) <= 1000


def test_a_pause_holds_for_everybody_and_says_why(tmp_path: Path, clock: Clock) -> None:
    ours, theirs = account(tmp_path, clock), account(tmp_path, clock)
    ours.pause(3600.0, "HTTP 418: banned")
    assert theirs.take(1) == pytest.approx(3600.0)
    assert theirs.because == "HTTP 418: banned"
    clock.now += 3600.5
    assert theirs.take(1) == 0.0


def test_a_pause_holds_although_weight_was_set_aside_before(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock)
    limit.take(2)
    limit.pause(5.0, "HTTP 429")
    assert limit.take(2) == pytest.approx(5.0)


def test_a_shorter_pause_does_not_shorten_a_longer_one(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock)
    limit.pause(3600.0, "banned")
    limit.pause(1.0, "slow down")
    assert limit.take(1) == pytest.approx(3600.0)


def test_the_limit_that_the_venue_states_is_known_to_all_for_a_day(tmp_path: Path, clock: Clock) -> None:
    ours, theirs = account(tmp_path, clock), account(tmp_path, clock)
    assert not theirs.is_learnt()
    ours.learn(1200)
    assert theirs.is_learnt()
    assert drained(theirs) <= 1200
    clock.now += 25 * 3600
    assert not theirs.is_learnt()


def test_what_was_taken_and_not_spent_is_given_back(tmp_path: Path, clock: Clock) -> None:
    idle = [account(tmp_path, clock) for _ in range(40)]
    for limit in idle:
        limit.take(2)
        limit.close()
    assert drained(account(tmp_path, clock)) >= 0.9 * 6000 - 80


def test_a_request_heavier_than_the_limit_goes_alone_rather_than_never(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock, 10)
    assert limit.take(20) == 0.0
    assert limit.take(1) > 0


def test_a_killed_process_leaves_nothing_stuck(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", HAMMERING, str(tmp_path), VENUE], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.uniform(0.01, 0.05))
            process.send_signal(signal.SIGKILL)
    started = time.monotonic()
    limit = SharedLimit(tmp_path, VENUE, 100, MINUTE, clock=lambda: time.time() + 2 * MINUTE)
    assert limit.take(1) == 0.0
    assert time.monotonic() - started < MINUTE


@pytest.mark.parametrize("content", ["", "{", '{"spent": "all"}', '{"limit": null}', "\x00\x01"])
def test_an_account_that_cannot_be_read_is_begun_anew(tmp_path: Path, clock: Clock, content: str) -> None:
    limit = account(tmp_path, clock)
    limit.take(2)
    (kept,) = tmp_path.glob("*.json")
    kept.write_text(content)
    assert drained(account(tmp_path, clock)) >= 0.9 * 6000


def test_a_clock_that_is_set_back_does_not_block_the_venue(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock, 100)
    drained(limit)
    clock.now -= 24 * 3600
    assert limit.take(2) == 0.0


def test_taking_costs_far_less_than_the_request_it_is_for(tmp_path: Path, clock: Clock) -> None:
    limit = account(tmp_path, clock)
    started = time.process_time()
    takes = drained(limit) / 2
    assert (time.process_time() - started) / takes < 0.005


def test_of_several_limits_all_are_kept(tmp_path: Path, clock: Clock) -> None:
    seconds = SharedLimit(tmp_path, "dhan-second", 5, 1.0, clock)
    day = SharedLimit(tmp_path, "dhan-day", 19, 86_400.0, clock)
    limits = Limits([seconds, day])
    taken = 0
    for _ in range(8):
        taken += drained_by(limits)
        clock.now += 1.1
    assert taken == 19
    assert limits.take(1) > 3600
    assert limits.because == "the rate limit is used up"
    limits.close()


def test_a_pause_holds_for_all_who_share_several_limits(tmp_path: Path, clock: Clock) -> None:
    def limits() -> Limits:
        return Limits([SharedLimit(tmp_path, name, 100, 60.0, clock) for name in ("second", "day")])

    limits().pause(30, "told so")
    another = limits()
    assert another.take(1) == 30
    assert another.because == "told so"


def drained_by(limits: Limits) -> int:
    taken = 0
    while limits.take(1) == 0.0:
        taken += 1
    return taken


@pytest.mark.parametrize("hours", [3, 26])
def test_what_was_noted_while_the_clock_was_ahead_is_not_believed(tmp_path: Path, clock: Clock, hours: int) -> None:
    clock.now += hours * 3600
    limit = account(tmp_path, clock)
    limit.take(2)
    limit.observe_server_usage(5700, 40.0)
    limit.close()
    account(tmp_path, clock, venue="other").pause(60, "HTTP 429")
    account(tmp_path, clock, venue="third").learn(100)
    clock.now -= hours * 3600
    assert account(tmp_path, clock).take(200) == 0.0
    assert account(tmp_path, clock, venue="other").take(1) == 60.0
    assert not account(tmp_path, clock, venue="third").is_learnt()


def test_a_clock_set_back_within_a_process_makes_no_long_window(tmp_path: Path, clock: Clock) -> None:
    clock.now += 26 * 3600
    limit = account(tmp_path, clock)
    limit.observe_server_usage(6000, 40.0)
    clock.now -= 26 * 3600
    assert limit.take(1) <= MINUTE


# ---- several machines: the account is in a Redis


def test_machines_share_one_account_in_redis_and_ask_nothing_without_it(tmp_path: Path, clock: Clock) -> None:
    with redis_server() as url:
        os.environ["REFRESH_REDIS_URL"] = url
        # Each has a folder of its own, as machines have.
        taken = drained_by_three_processes([tmp_path / name for name in ("alpha", "beta", "gamma")])
        assert 0.93 * 3000 <= sum(taken) <= 3000
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        ours, theirs = account(tmp_path, clock), account(tmp_path, clock)
        ours.pause(30.0, "asked too often")
        assert 29.0 < theirs.take(1) <= 30.0
        assert theirs.because == "asked too often"
        assert "delete the key refresh:limit:binance-127.0.0.1_8080" in theirs.remedy
        # The server's clock counts, not the machine's.
        real = SharedLimit(tmp_path, "another", 100, MINUTE)
        assert real.take(1) == 0.0
    with pytest.raises(TransientError, match="no request is made without it"):
        ours.take(1)


def test_a_lock_that_a_killed_machine_held_is_free_again(tmp_path: Path) -> None:
    with redis_server() as url:
        os.environ["REFRESH_REDIS_URL"] = url
        client = redis.Redis.from_url(url)
        client.set("refresh:limit:venue:lock", "of a machine that died", px=300)
        limit = SharedLimit(tmp_path, "venue", 100, MINUTE)
        assert limit.take(1) == 0.0
        assert not client.exists("refresh:limit:venue:lock")
        client.close()
