"""Where news comes from: the change feed, and looks at Dagster while somebody listens."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from refresh_pipeline.analytics.bars import Values
from refresh_pipeline.api.control import schedule_news, schedule_row
from refresh_pipeline.api.encoding import iso_times
from refresh_pipeline.api.frames import OPEN_TIME, as_of_columns
from refresh_pipeline.api.news import News, SeriesNews, Topic
from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.api.runs import run_row
from refresh_pipeline.api.service import Service
from refresh_pipeline.api.status import problems_now, status_body
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.streaming.push import Pushed
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.versions import Change, Changes

LAYERS = {
    Table.raw_candles.value: "candles",
    Table.enhanced_candles.value: "enhanced",
    Table.indicators.value: "indicators",
}
# Rows that a message holds of one series at most; who missed more asks for them.
MOST_ROWS = 100
# Seconds between looks at runs, at schedules and at what is wrong.
RUNS_EVERY, SCHEDULES_EVERY, ALERTS_EVERY, STATUS_EVERY = 2.0, 10.0, 15.0, 5.0
# What changes all the time without being news.
UNTOLD = ("timestamp", "epoch", "daemon", "warehouse")

log = logging.getLogger("refresh_pipeline.api")


def news_of(service: Service, read: Changes) -> list[News]:
    """One message a market and timeframe for the changes that were read; a reset first where the file is another."""
    groups: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in read.changes:
        if change.asset in LAYERS:
            groups[change.market, change.timeframe].append(change)
    messages = [News(Topic.candles, "reset", {"type": "reset", "epoch": read.epoch})] if read.reset else []
    for (market, timeframe), changes in groups.items():
        version = max(change.version for change in changes)
        body = {"type": "candles", "version": version, "market": market, "timeframe": timeframe}
        series = {(one.instrument, LAYERS[one.asset]): _series(service, one) for one in changes}
        messages.append(News(Topic.candles, (Topic.candles, market, timeframe), body, series, version))
    return messages


def news_of_push(service: Service, pushed: Pushed, taken: Sequence[Series]) -> News:
    """The message of candles that a live run pushed: `live` is true, and the version is the newest of the file.

    Computed columns are there as far as somebody named their layer.
    """
    version, timeframe = service.feed.version, pushed.series[0].timeframe.value
    body = {"type": "candles", "version": version, "market": pushed.market, "timeframe": timeframe, "live": True}
    times, layer = iso_times(pushed.open_time).tolist(), LAYERS[Table.raw_candles.value]
    values = {name: array.tolist() for name, array in pushed.candles.items()}
    series, wanted = {}, set(taken)
    for number, one in enumerate(pushed.series):
        if one in wanted:
            row = {OPEN_TIME: times[number], **{name: column[number] for name, column in values.items()}}
            told = {"instrument": one.instrument, "layer": layer, "since": times[number], "last": row, "rows": [row]}
            series[one.instrument, layer] = told
    for table in pushed.computed:
        if LAYERS[table.value] in service.hub.layers():
            series |= _computed(service, pushed, wanted, table)
    on_request = frozenset(LAYERS[table.value] for table in pushed.computed)
    key = (Topic.candles, pushed.market, timeframe)
    return News(Topic.candles, key, body, series, version, on_request=on_request)


def _computed(service: Service, pushed: Pushed, wanted: set[Series], table: Table) -> SeriesNews:
    """The news of one computed layer: the columns at the pushed candle."""
    layer, times = LAYERS[table.value], iso_times(pushed.open_time).tolist()
    market = next(market for market in service.markets if market.name == pushed.market)
    columns = computations(market)[table].columns
    whole = {column.name for column in columns if column.sql_type not in ("double", "varchar")}
    lists = {name: _json_values(values, is_whole=name in whole) for name, values in pushed.computed[table].items()}
    news = {}
    for number, one in enumerate(pushed.series):
        if one in wanted:
            row = {OPEN_TIME: times[number], **{name: values[number] for name, values in lists.items()}}
            told = {"instrument": one.instrument, "layer": layer, "since": times[number], "last": row, "rows": [row]}
            news[one.instrument, layer] = told
    return news


def _json_values(values: Values, *, is_whole: bool) -> list[Any]:
    """The values with None for what is missing, and whole numbers where the column holds them."""
    listed = values.tolist()
    if values.dtype == object:
        return listed
    return [None if one != one else int(one) if is_whole else one for one in listed]  # noqa: PLR0124 (NaN)


def _series(service: Service, change: Change) -> Mapping[str, Any]:
    since = None if change.since is None else iso_utc(change.since)
    news = {"instrument": change.instrument, "layer": LAYERS[change.asset], "since": since}
    if change.asset != Table.raw_candles:
        return news
    rows = newest_rows(service, change.market, Series(change.instrument, Timeframe(change.timeframe)), change.since)
    return {**news, "last": rows[-1] if rows else None, "rows": rows}


def newest_rows(service: Service, market: str, series: Series, since: datetime | None) -> list[dict[str, Any]]:
    """The candles of a series from an open time on, from memory, MOST_ROWS at most."""
    tail = service.feed.tails.get(market, series)
    loaded = next((one for one in service.markets if one.name == market), None)
    if tail is None or loaded is None or not len(tail.open_times):
        return []
    end = len(tail.open_times)
    first = 0 if since is None else int(np.searchsorted(tail.open_times, np.datetime64(since, "us")))
    first = max(min(first, end - 1), end - MOST_ROWS)
    arrays = tail.rows(first, end, as_of_columns(loaded))
    lists = {
        name: iso_times(array).tolist()
        if name == OPEN_TIME
        else [None if value != value else value for value in array.tolist()]  # noqa: PLR0124 (NaN)
        for name, array in arrays.items()
    }
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


class Newsroom:
    """Publishes what changes, from its start to its end."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tasks: list[asyncio.Task[None]] = []
        self._runs: dict[str, str] | None = None
        self._schedules: dict[str, Mapping[str, Any]] | None = None
        self._alerts: dict[str, str] | None = None
        self._status: Mapping[str, Any] | None = None

    def start(self) -> None:
        """Listen to the feed, and look at Dagster now and then."""
        self._service.feed.listen(self._take)
        self._service.feed.listen_to_pushes(self._take_pushed)
        looks = (
            (RUNS_EVERY, self._look_at_runs),
            (SCHEDULES_EVERY, self._look_at_schedules),
            (ALERTS_EVERY, self._look_at_alerts),
            (STATUS_EVERY, self._look_at_status),
        )
        self._tasks = [asyncio.create_task(self._repeat(seconds, look)) for seconds, look in looks]

    async def close(self) -> None:
        """End the looks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, read: Changes) -> None:
        if len(self._service.hub):
            for news in news_of(self._service, read):
                self._service.hub.publish(news)
            if self._service.hub.has_listeners(Topic.apis):
                self._service.in_background(self._tell_apis(read))

    def _take_pushed(self, pushed: Pushed, taken: Sequence[Series]) -> None:
        if self._service.hub.has_listeners(Topic.candles):
            self._service.hub.publish(news_of_push(self._service, pushed, taken))

    async def _tell_apis(self, read: Changes) -> None:
        for news in await self._service.snapshots.news_of(read.changes):
            self._service.hub.publish(news)

    async def _repeat(self, seconds: float, look: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await look()
            except ProblemError:
                # Dagster is away or a writer holds the warehouse: the next look tells.
                continue
            except Exception:
                log.exception("news could not be gathered")

    async def _look_at_runs(self) -> None:
        if not self._service.hub.has_listeners(Topic.runs):
            self._runs = None
            return
        runs = await self._service.dagster.runs(limit=25)
        before, self._runs = self._runs, {run.id: run.status for run in runs}
        for run in reversed(runs) if before is not None else ():
            if before is not None and before.get(run.id) != run.status:
                row = run_row(self._service, run)
                self._publish(Topic.runs, ("run", run.id), {"type": "run_update", **row})

    async def _look_at_schedules(self) -> None:
        if not self._service.hub.has_listeners(Topic.schedules):
            self._schedules = None
            return
        rows = [schedule_row(self._service, one) for one in await self._service.dagster.instigators()]
        before, named = self._schedules, {str(row["name"]): row for row in rows}
        self._schedules = dict(named)
        for row in rows if before is not None else ():
            if before is not None and (before.get(row["name"]) or {}).get("running") != row["running"]:
                self._service.hub.publish(schedule_news(row))

    async def _look_at_alerts(self) -> None:
        if not self._service.hub.has_listeners(Topic.alerts):
            self._alerts = None
            return
        now = {one.subject: one.text for one in await problems_now(self._service)}
        before, self._alerts = self._alerts, now
        if before is None:
            return
        for subject, text in now.items():
            if subject not in before:
                self._tell_alert(subject, text, "begins")
            elif before[subject] != text:
                self._tell_alert(subject, text, "lasts")
        for subject in before.keys() - now.keys():
            self._tell_alert(subject, before[subject], "over")

    async def _look_at_status(self) -> None:
        if not self._service.hub.has_listeners(Topic.status):
            self._status = None
            return
        status = await status_body(self._service)
        told = {name: value for name, value in status.items() if name not in UNTOLD}
        before, self._status = self._status, told
        if before is not None and before != told:
            self._publish(Topic.status, "status", {"type": "status_update", "status": status})

    def _tell_alert(self, subject: str, text: str, state: str) -> None:
        body = {"type": "alert_update", "subject": subject, "text": text, "state": state}
        self._publish(Topic.alerts, ("alert", subject), body)

    def _publish(self, topic: Topic, key: Hashable, body: Mapping[str, Any]) -> None:
        self._service.hub.publish(News(topic, key, body))


def all_news(service: Service, read: Changes, subscriptions: Iterable[Any]) -> Sequence[News]:
    """The messages of changes that a client missed, as far as its subscriptions want them."""
    wanted = list(subscriptions)
    messages = []
    for news in news_of(service, read):
        parts = [news] if news.key == "reset" else [part for one in wanted if (part := one.wanted(news)) is not None]
        messages += parts[:1]
    return messages
