"""Which workers live: each says so in Redis every 10 s, and a reader sees those of the last 30 s.

A worker that is killed, or whose machine or network is gone, drops out by itself. Neither Dagster nor Celery is
imported here: the API asks too. `celery_app` lets a worker speak.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import Any

KEY = "refresh:workers"
# Seconds between two signs of life, and those that one counts for.
BEAT, KEPT = 10.0, 30
TIMEOUT = 2.0
# All by the server's clock. Each member is a queue and a worker, its score the second until which it counts.
SAY = """
local now = tonumber(redis.call('time')[1])
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
for number = 2, #ARGV do redis.call('zadd', KEYS[1], now + ARGV[1], ARGV[number]) end
redis.call('expire', KEYS[1], ARGV[1])
"""
ASK = "return redis.call('zrangebyscore', KEYS[1], '(' .. redis.call('time')[1], '+inf')"


class BrokerAway(Exception):
    """The Redis of the workers does not answer."""


def say(url: str, worker: str, queues: Iterable[str]) -> None:
    """Say that a worker lives and takes runs from these queues.

    Raises:
        BrokerAway: Redis does not answer.
    """
    _run(url, SAY, KEPT, *(f"{queue} {worker}" for queue in queues))


def unsay(url: str, worker: str, queues: Iterable[str]) -> None:
    """Say that a worker takes no more runs.

    Raises:
        BrokerAway: Redis does not answer.
    """
    _run(
        url, "for _, each in ipairs(ARGV) do redis.call('zrem', KEYS[1], each) end", *(f"{q} {worker}" for q in queues)
    )


def living(url: str) -> Counter[str]:
    """How many workers take runs from each queue.

    Raises:
        BrokerAway: Redis does not answer.
    """
    return Counter(member.decode().partition(" ")[0] for member in _run(url, ASK))


def _run(url: str, script: str, *arguments: Any) -> Any:
    import redis  # noqa: PLC0415 (an optional package)

    try:
        with closing(redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)) as client:
            return client.eval(script, 1, KEY, *arguments)
    except (redis.RedisError, ValueError) as error:
        raise BrokerAway(f"the Redis of REFRESH_REDIS_URL does not answer: {type(error).__name__}") from None
