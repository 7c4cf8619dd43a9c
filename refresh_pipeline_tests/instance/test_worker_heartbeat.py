"""Workers that say that they live, in a real Redis; that a real worker speaks is in test_celery_launcher."""

import pytest

from refresh_pipeline.instance import worker_heartbeat
from refresh_pipeline.instance.worker_heartbeat import BrokerAway, living, say, unsay
from refresh_pipeline_tests.launcher_fixture import wait_until
from refresh_pipeline_tests.redis_server import redis_server


def test_workers_are_counted_by_queue_until_they_end_or_fall_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server() as url:
        assert living(url) == {}
        for _ in range(2):
            say(url, "1@beta", ["dagster", "files"])
        say(url, "2@gamma", ["dagster"])
        assert living(url) == {"dagster": 2, "files": 1}
        unsay(url, "1@beta", ["dagster", "files"])
        assert living(url) == {"dagster": 1}
        monkeypatch.setattr(worker_heartbeat, "KEPT", 1)
        say(url, "2@gamma", ["dagster"])
        wait_until(lambda: living(url) == {})


def test_a_redis_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(BrokerAway, match="REFRESH_REDIS_URL does not answer: ConnectionError") as told:
        living("redis://:secret@127.0.0.1:9/0")
    assert "secret" not in str(told.value)
