"""Who watches sees how far the work is, and nobody else."""

import threading

import pytest

from refresh_pipeline.pipeline.progress import advance, watched


def test_a_watcher_sees_every_step() -> None:
    seen: list[tuple[str, int, int]] = []
    with watched(lambda *step: seen.append(step)):
        advance("raw_candles", 1, 3)
        advance("raw_candles", 3, 3)
    assert seen == [("raw_candles", 1, 3), ("raw_candles", 3, 3)]


def test_nobody_watching_is_fine() -> None:
    advance("raw_candles", 1, 1)


def test_after_the_block_nobody_watches_any_more_however_it_ended() -> None:
    seen: list[str] = []
    with pytest.raises(KeyError), watched(lambda what, *_: seen.append(what)):
        raise KeyError
    advance("late", 1, 1)
    assert seen == []


def test_the_inner_watcher_is_the_one_who_sees() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with watched(lambda what, *_: outer.append(what)):
        with watched(lambda what, *_: inner.append(what)):
            advance("inside", 1, 1)
        advance("outside", 1, 1)
    assert (outer, inner) == (["outside"], ["inside"])


def test_another_thread_is_not_watched() -> None:
    seen: list[str] = []
    with watched(lambda what, *_: seen.append(what)):
        thread = threading.Thread(target=advance, args=("elsewhere", 1, 1))
        thread.start()
        thread.join()
    assert seen == []
