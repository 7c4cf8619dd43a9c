"""Two refreshes at once keep one limit between them: never above it, and nearly all of it used."""

import json
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.end_to_end.programs import PATIENCE, installed
from refresh_pipeline_tests.fakes.http_server import LoopbackServer
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World

REQUESTS, SECONDS = 60, 2.0
WINDOWS = 220


class Empty(LoopbackServer):
    """A venue that has nothing, and says so at once."""

    async def answer(self, request: web.Request) -> web.Response:
        return web.json_response([])


def market(name: str, base_url: str) -> str:
    """One whose backfill of a day and a half has to ask for so many windows of ten candles."""
    source = {
        "kind": "http",
        "base_url": base_url,
        "path": f"/{name}",
        "params": {"since": "{since:s}"},
        "timeframes": {"m1": "1"},
        "fields": {"time": 0, "open": 1, "high": 2, "low": 3, "close": 4},
        "time": "s",
        "rows": 11,
        "rate": {"requests": REQUESTS, "seconds": SECONDS},
    }
    said = {"name": name, "source": source, "calendar": "crypto", "instruments": ["BTC/USD"], "timeframes": ["m1"]}
    return json.dumps({**said, "history": "1d"})


def test_two_refreshes_share_the_limit_and_use_nearly_all_of_it(tmp_path: Path) -> None:
    with Empty() as venue:
        world = World.founded(tmp_path / "world", market("one", venue.base_url), "one")
        (world.root / "markets" / "two.yaml").write_text(market("two", venue.base_url))
        with inside(world.root):
            since = np.datetime64("2024-06-01") - np.timedelta64(10 * WINDOWS, "m")
            when = ("--since", str(since), "--now", "2024-06-01")
            both = [
                subprocess.Popen([installed("refresh"), "backfill", "-m", name, *when], stdout=subprocess.DEVNULL)
                for name in ("one", "two")
            ]
            assert [each.wait(timeout=PATIENCE) for each in both] == [0, 0]
    asked = Counter(each.path for each in venue.asked)
    assert asked == {"/one": WINDOWS, "/two": WINDOWS}
    came = np.array([each.at for each in venue.asked])
    side_by_side = [np.array([each.at for each in venue.asked if each.path == path]) for path in ("/one", "/two")]
    assert max(each.min() for each in side_by_side) < min(each.max() for each in side_by_side)
    within = np.searchsorted(came, came + SECONDS) - np.arange(len(came))
    assert within.max() <= REQUESTS
    # From the first burst to the beginning of the last.
    windows = int((came[-1] - came[0]) / SECONDS)
    used = ((came >= came[0]) & (came < came[0] + windows * SECONDS)).sum() / windows
    assert used >= 0.9 * REQUESTS
    assert time.monotonic() - came[0] > 2 * WINDOWS / REQUESTS * SECONDS * 0.9
