"""Bounded growth, tried: an instance with a million events is pruned, and the web UI's answers are held side by side.

Run as `python -m refresh_pipeline_tests.benchmarks.growth --events 1000000`; `--series 5` for a glance. One wide run is
real; what it left behind is written down again a minute later, and so on: events, tags, checks, run, files. The newest
run goes through the event log, and a few partitions have not been made for a while. It takes 10 kB an event in the
folder for temporary files (or `--folder`) and leaves nothing. Figures are in docs/decisions/0070.
"""

import argparse
import os
import shutil
import sqlite3
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from dagster import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

from refresh_pipeline.instance.event_log import BatchingSqliteEventLogStorage
from refresh_pipeline.instance.run_pruning import Pruned, prune
from refresh_pipeline.instance.run_retention import retention_of
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.pipeline.job_names import refresh_job_name
from refresh_pipeline.settings import load_settings, prepare_dagster
from refresh_pipeline_tests.benchmarks.cycle import run_job
from refresh_pipeline_tests.benchmarks.venue import BEGIN

Result = TypeVar("Result")
MINUTE = timedelta(minutes=1)
# So many partitions failed ever since the first quarter of the history.
FAILING = 5
EVENT_COLUMNS = "dagster_event_type, timestamp, step_key, asset_key, partition"
STATE = """query { assetNodes { assetKey { path }
  partitionStats { numMaterialized numFailed numMaterializing numPartitions }
  assetPartitionStatuses { ... on MultiPartitionStatuses { ranges { primaryDimStartKey primaryDimEndKey
    secondaryDim { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } } } } }
  assetMaterializations(limit: 1) { runId timestamp }
  assetChecksOrError { ... on AssetChecks { checks {
    name executionForLatestMaterialization { runId status } } } } } }"""


@dataclass
class Instance:
    """A filled Dagster instance: its folder, the runs in order of time, and the market they are of."""

    folder: Path
    instance: dg.DagsterInstance
    first: str
    runs: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """DAGSTER_HOME."""
        return self.folder / "dagster"

    @property
    def index(self) -> Path:
        """The SQLite file of the events that all runs share."""
        return self.home / "history" / "runs" / "index.db"

    def count(self, table: str = "event_logs", where: str = "true") -> int:
        """Rows of a table of the index."""
        with closing(sqlite3.connect(self.index)) as connection:
            return connection.execute(f"select count(*) from {table} where {where}").fetchall()[0][0]

    def size(self) -> int:
        """Bytes of everything in DAGSTER_HOME."""
        return sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file())


@contextmanager
def filled(folder: Path, series: int, events: int, now: datetime) -> Iterator[Instance]:
    """An instance on which wide runs of so many series have been, a minute apart, the newest one just now."""
    market = parse_market(market_yaml(series), file="wide.yaml")
    (folder / "wide.yaml").write_text(market_yaml(series))
    chosen = {"REFRESH_DATA_DIR": str(folder), "REFRESH_MARKETS_DIR": str(folder), "REFRESH_MARKETS": "wide"}
    os.environ.update(chosen)
    settings = load_settings()
    prepare_dagster(settings)
    job = build(settings, [market]).resolve_job_def(refresh_job_name(market))
    with dg.DagsterInstance.get() as instance:
        run_job(instance, job, market, BEGIN)
        made = Instance(folder, instance, instance.get_runs(limit=1)[0].run_id)
        a_run = made.count(where="dagster_event_type = 'ASSET_MATERIALIZATION'")
        repeat(made, max(events // a_run, 3), now)
        yield made


def market_yaml(series: int, history: str = "10m") -> str:
    """So many simulated series."""
    instruments = ", ".join(f"S{number:03d}" for number in range(series))
    return (
        f"{{name: wide, source: {{kind: demo}}, calendar: crypto, instruments: [{instruments}], "
        f"timeframes: [m1], history: {history}}}"
    )


def repeat(made: Instance, count: int, now: datetime) -> None:
    """Let the first run have been there so many times, the last time a minute ago."""
    ends = [(now - MINUTE * back).timestamp() for back in range(count, 0, -1)]
    made.runs = [made.first, *(str(uuid.uuid4()) for _ in ends[1:])]
    with closing(sqlite3.connect(made.index)) as index, closing(sqlite3.connect(made.home / "history/runs.db")) as runs:
        take(index, "event_logs", made.first, order="id")
        take(index, "asset_check_executions", made.first)
        index.execute(
            "create temp table tags as select t.*, e.position from asset_event_tags t join "
            "(select id, row_number() over (order by id) as position from main.event_logs where run_id = ?) e "
            "on e.id = t.event_id",
            [made.first],
        )
        take(runs, "runs", made.first)
        take(runs, "run_tags", made.first)
        for number, (run_id, ended) in enumerate(zip(made.runs[1:-1], ends[1:-1], strict=True), start=1):
            repeat_events(index, made, run_id, ended, failing=number > count // 4)
            repeat_run(runs, run_id, made.first, ended)
            repeat_files(made, run_id)
        end_at(runs, made.first, ends[0])
        repeat_run(runs, made.runs[-1], made.first, ends[-1])
        index.commit()
        runs.commit()
    repeat_files(made, made.runs[-1], events=False)
    store_newest(made, made.runs[-1], ends[-1])


def take(connection: sqlite3.Connection, table: str, run_id: str, order: str = "rowid") -> None:
    """A run's rows, aside."""
    connection.execute(
        f"create temp table one_{table} as select * from {table} where run_id = ? order by {order}", [run_id]
    )


def repeat_events(index: sqlite3.Connection, made: Instance, run_id: str, ended: float, *, failing: bool) -> None:
    """The first run's events in the index, as another run's."""
    [(last,)] = index.execute("select max(id) from event_logs").fetchall()
    values = {"old": made.first, "new": run_id, "last": last, "at": stamp(ended)}
    index.execute(
        "insert into event_logs (id, run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition) "
        "select :last + row_number() over (), :new, replace(event, :old, :new), dagster_event_type, :at, step_key, "
        "asset_key, partition from one_event_logs",
        values,
    )
    index.execute(
        "insert into asset_event_tags (event_id, asset_key, key, value, event_timestamp) "
        "select :last + position, asset_key, key, value, :at from tags",
        values,
    )
    index.execute(
        "insert into asset_check_executions (asset_key, check_name, partition, run_id, execution_status, "
        "evaluation_event, evaluation_event_timestamp, evaluation_event_storage_id, materialization_event_storage_id) "
        "select asset_key, check_name, partition, :new, execution_status, replace(evaluation_event, :old, :new), :at, "
        "evaluation_event_storage_id, materialization_event_storage_id from one_asset_check_executions",
        values,
    )
    if failing:
        index.execute(
            "delete from event_logs where id > :last and partition in "
            "(select distinct partition from one_event_logs where partition is not null order by 1 limit :failing)",
            {"last": last, "failing": FAILING},
        )
        index.execute(
            "delete from asset_event_tags where event_id > :last "
            "and event_id not in (select id from event_logs where id > :last)",
            {"last": last},
        )


def repeat_run(runs: sqlite3.Connection, run_id: str, first: str, ended: float) -> None:
    """The first run itself, as another one."""
    runs.execute(
        "insert into runs (run_id, snapshot_id, pipeline_name, status, run_body, partition) "
        "select :new, snapshot_id, pipeline_name, status, replace(run_body, :old, :new), partition from one_runs",
        {"old": first, "new": run_id},
    )
    runs.execute("insert into run_tags (run_id, key, value) select ?, key, value from one_run_tags", [run_id])
    end_at(runs, run_id, ended)


def end_at(runs: sqlite3.Connection, run_id: str, ended: float) -> None:
    """When a run began and ended."""
    runs.execute(
        "update runs set create_timestamp = ?, update_timestamp = ?, start_time = ?, end_time = ? where run_id = ?",
        [stamp(ended - 5), stamp(ended), ended - 4, ended, run_id],
    )


def repeat_files(made: Instance, run_id: str, *, events: bool = True) -> None:
    """The files of the first run, as another one's; their contents are as large, and that is what matters."""
    if events:
        shutil.copyfile(made.index.with_name(f"{made.first}.db"), made.index.with_name(f"{run_id}.db"))
    shutil.copytree(made.home / "storage" / made.first, made.home / "storage" / run_id)


def store_newest(made: Instance, run_id: str, ended: float) -> None:
    """The first run's events once more, through the event log as a run would, but for the partitions that fail."""
    log = made.instance.event_log_storage
    assert isinstance(log, BatchingSqliteEventLogStorage)
    entries = [each.event_log_entry for each in made.instance.get_records_for_run(made.first).records]
    mine = [each._replace(run_id=run_id, timestamp=ended) for each in entries]
    made_events = [each for each in mine if each.dagster_event_type is DagsterEventType.ASSET_MATERIALIZATION]
    for each in mine:
        if each not in made_events[:1] and each.dagster_event_type is not DagsterEventType.ASSET_MATERIALIZATION:
            log.store_event(each)
    partitions = sorted({partition_of(each) for each in made_events})[FAILING:]
    for asset in {each.get_dagster_event().asset_key for each in made_events}:
        log.store_event_batch(
            [e for e in made_events if e.get_dagster_event().asset_key == asset and partition_of(e) in partitions]
        )


def partition_of(entry: EventLogEntry) -> str:
    """Of a materialization."""
    return str(entry.get_dagster_event().partition)


def stamp(seconds: float) -> str:
    """An instant as SQLite's tables of Dagster hold it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S.%f}"


# ---- what the web UI sees


@contextmanager
def web_ui(made: Instance) -> Iterator[Callable[[], dict[str, Any]]]:
    """The web UI's question for every partition's state, answered in this process."""
    from dagster_graphql.cli import execute_query  # noqa: PLC0415

    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="refresh_pipeline.definitions"))
    with warnings.catch_warnings():
        # Dagster's own: it asks its schedules for what it has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = WorkspaceProcessContext(made.instance, InProcessWorkspaceLoadTarget(origin))
    with context:
        yield lambda: dict(execute_query(context, STATE))


def forget_states(made: Instance) -> None:
    """Let the next question be answered from events, and not from what Dagster remembers of its last answer."""
    made.instance.wipe_asset_cached_status(list(made.instance.all_asset_keys()))


def states(made: Instance) -> dict[str, object]:
    """What the storage says of each partition: its newest event, as it is."""
    log = made.instance.event_log_storage
    found: dict[str, object] = {}
    for asset in sorted(made.instance.all_asset_keys()):
        ids = log.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION)
        found[asset.to_user_string()] = (dict(ids), sorted(made.instance.get_materialized_partitions(asset)))
        record = made.instance.get_latest_materialization_event(asset)
        found[f"{asset.to_user_string()} newest"] = None if record is None else record.run_id
    return found


@contextmanager
def somebody_writing(made: Instance) -> Iterator[list[float]]:
    """A tick's smallest write to the index, over and over, and how long each waits."""
    waits: list[float] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.05):
            with closing(sqlite3.connect(made.index, timeout=30, isolation_level=None)) as connection:
                began = time.perf_counter()
                connection.execute("begin immediate")
                waits.append(time.perf_counter() - began)
                connection.execute("rollback")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield waits
    finally:
        stop.set()
        thread.join()


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial found: before and after, in this order where there are two."""

    events: tuple[int, int]
    bytes: tuple[int, int]
    seconds: float
    dry: Pruned
    pruned: Pruned
    longest_wait: float
    ui_seconds: tuple[float, float]
    same_states: bool
    same_answers: bool


def attempted(made: Instance, now: datetime) -> Trial:
    """Prune, and look before and after."""
    with web_ui(made) as ask:
        ask()
        forget_states(made)
        before, (ui_before, told_before) = states(made), timed(ask)
        assert "errors" not in told_before, told_before
        events, size = made.count(), made.size()
        dry = prune(made.instance, retention_of, now, dry_run=True)
        with somebody_writing(made) as waits:
            seconds, pruned = timed(lambda: prune(made.instance, retention_of, now))
        load_state = ask()
        forget_states(made)
        ui_after, told_after = timed(ask)
    return Trial(
        (events, made.count()),
        (size, made.size()),
        seconds,
        dry,
        pruned,
        max(waits),
        (ui_before, ui_after),
        before == states(made),
        told_before == told_after == load_state,
    )


def publicly(made: Instance, count: int) -> float:
    """Seconds a run that Dagster's own way to delete one takes, over a few of the oldest."""
    some = made.runs[1 : 1 + count]
    return timed(lambda: [made.instance.delete_run(run_id) for run_id in some])[0] / len(some)


def main() -> None:
    """Fill, prune, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--series", type=int, default=487)
    parser.add_argument("--folder", help="where to fill it, on a disk with room")
    chosen = parser.parse_args()
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        began = time.perf_counter()
        with filled(Path(folder), chosen.series, chosen.events, now) as made:
            print(f"filled with {len(made.runs)} runs in {time.perf_counter() - began:.0f} s", flush=True)
            print(f"the public way: {publicly(made, 5):.2f} s a run, its files stay", flush=True)
            show(attempted(made, now))


def show(found: Trial) -> None:
    """The figures, a line each."""
    mb = [
        f"{each / 1e6:,.0f} MB" for each in (*found.bytes, found.dry.bytes, found.pruned.bytes, found.pruned.given_back)
    ]
    print(f"expected: {found.dry}")
    print(f"pruned:   {found.pruned}")
    print(f"events    {found.events[0]:,} -> {found.events[1]:,} in {found.seconds:.1f} s")
    print(f"bytes     {mb[0]} -> {mb[1]} (expected {mb[2]}, freed {mb[3]}, databases smaller by {mb[4]})")
    print(f"others    waited {found.longest_wait:.2f} s at most to write")
    print(f"web UI    every partition's state in {found.ui_seconds[0]:.2f} s before, {found.ui_seconds[1]:.2f} s after")
    print(
        f"the same  newest events of every partition: {found.same_states}; the web UI's answers: {found.same_answers}"
    )


if __name__ == "__main__":
    main()
