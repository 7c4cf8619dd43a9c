"""A cluster on one machine without Docker: what happens to candles when hosts and servers of it die.

`make bench-cluster`, as root on Linux. Hosts are namespaces with their own name, processes and network card: alpha has
the daemon, beta and gamma a worker each, delta the web UI and the API, which is asked how all fare. PostgreSQL and
Redis are real ones. The warehouse is a DuckDB file that the hosts share by the locks of one kernel. Exit code 1 if a
check fails.

With `--lake` it is a lake, whose files are in a bucket of a real S3: each host has a data folder of its own, and shares
the three servers alone. DuckDB and its extensions must be those of constraints-cluster.txt, as `.ci/run` installs them
for the tests on a lake. With `--first`, nothing is killed: the first refresh is measured with one worker and with two.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus

from refresh_pipeline.instance.orphaned_runs import LOCK_TAG
from refresh_pipeline.orchestration.schedules import TICK_TAG
from refresh_pipeline.settings import load_settings, shipped
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline_tests.benchmarks.health_watch import HealthWatch
from refresh_pipeline_tests.benchmarks.namespaces import ADDRESS, Network, missing, network
from refresh_pipeline_tests.postgres_server import PostgresServer, postgres_server
from refresh_pipeline_tests.redis_server import redis_server
from refresh_pipeline_tests.s3_server import BUCKET, S3Server, s3_server

JOB, WORKERS = "grid_refresh", ("beta", "gamma")
MARKET = (
    """{{name: grid, source: {{kind: demo}}, calendar: crypto, instruments: [{names}], timeframes: [m1], {more}}}"""
)
LITTLE = "history: 4h, indicators: {compute: [rsi]}"
# The first refresh of two workers may take this share of one worker's.
MOST_OF_ONE = 0.65
# Seconds that a host's network is cut for.
CUT = 60.0
# Seconds until a later tick succeeds again.
NEXT_SUCCESS = 150.0
RUN = "'from refresh_pipeline.cli import main; main()'"
# What upkeep leaves of an hour's files: those of the last ticks, and what they were merged into.
MOST_FILES = 200
# Seconds until the API says that something is wrong, and that all is well again.
TO_RED, TO_GREEN = 60.0, 150.0
API_KEY = "a key of this benchmark"
SESSIONS = "select application_name from pg_stat_activity where application_name like 'refresh %'"


@dataclass
class Check:
    """What must hold, whether it does, and the figures."""

    sentence: str
    holds: bool
    figures: str


@dataclass
class Cluster:
    """Hosts, servers, and Dagster's instance as this process sees it."""

    folder: Path
    postgres: PostgresServer
    instance: dg.DagsterInstance
    network: Network
    s3: S3Server | None = None
    watch: HealthWatch | None = None
    hosts: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, host: str, *command: str, program: str = "") -> None:
        """Start a host with its own name, processes and card, and a program on it; further ones have names."""
        namespace = self.network.command(host, *command)
        own = {"REFRESH_DATA_DIR": str(self.folder / f"data-{host}")} if self.s3 else {}
        log = (self.folder / f"{host}{program}.log").open("ab")
        self.hosts[host + program] = subprocess.Popen(
            namespace, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **own}
        )
        log.close()

    def start_worker(self, host: str) -> None:
        """A host with a worker for both queues."""
        self.start(host, sys.executable, "-c", RUN, "worker", "--queue", "dagster,files")

    def start_api(self, host: str) -> HealthWatch:
        """A host with the web UI and the API, and somebody who asks it how all fare."""
        self.start(host, sys.executable, "-m", "refresh_pipeline.front_door", "-w", str(shipped("workspace.yaml")))
        address = self.network.address(host)
        os.environ["REFRESH_API_HOSTS"] = f"{address}:8080"
        # As compose and systemd do: DuckDB ends the process where PostgreSQL goes in a reader's transaction.
        again = f'"while :; do {sys.executable} -c {RUN} serve --host {address}; sleep 1; done"'
        self.start(host, "sh", "-c", again, program="-api")
        self.watch = HealthWatch(f"http://{address}:8080", API_KEY)
        self.watch.start()
        return self.watch

    def kill(self, host: str) -> None:
        """End a host as a power cut does."""
        process = self.hosts.pop(host)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ticks(self) -> Counter[tuple[str, DagsterRunStatus]]:
        """The runs that ticks have asked for, by tick and status."""
        runs = self.instance.get_runs(dg.RunsFilter(job_name=JOB))
        return Counter((run.tags[TICK_TAG], run.status) for run in runs if TICK_TAG in run.tags)

    def succeeded(self) -> set[datetime]:
        """The ticks whose run has succeeded."""
        return {datetime.fromisoformat(tick) for tick, status in self.ticks() if status is DagsterRunStatus.SUCCESS}

    def host_at_work(self) -> str:
        """The host that works on a refresh now, and whose run says that it holds a lock; empty for none."""
        names = self.postgres.query(SESSIONS, os.environ["REFRESH_POSTGRES_URL"]).splitlines()
        started = dg.RunsFilter(job_name=JOB, statuses=[DagsterRunStatus.STARTED])
        going = {run.run_id for run in self.instance.get_runs(started) if LOCK_TAG in run.tags}
        return next((name.split()[2] for name in names if len(name.split()) == 3 and name.split()[1] in going), "")


def main() -> int:
    """Run it and print each check; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=5, help="of an undisturbed cluster")
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--lake", action="store_true", help="the warehouse is a lake with its files in S3")
    parser.add_argument("--first", action="store_true", help="measure the first refresh with one worker and with two")
    asked = parser.parse_args()
    if lacking := missing():
        sys.exit(f"bench-cluster: wanted root on Linux with unshare and ip, found no {', '.join(lacking)}")
    if asked.first:
        check = first_refresh(asked.series, is_lake=asked.lake)
        print(f"{'ok  ' if check.holds else 'FAIL'} {check.sentence}: {check.figures}")
        return int(not check.holds)
    checks = []
    with cluster(asked.series, LITTLE, is_lake=asked.lake) as made:
        outages = {"PostgreSQL": made.postgres, **({"S3": made.s3} if made.s3 else {})}
        watch = watched(made)
        for examine in (
            lambda: undisturbed(made, asked.minutes),
            lambda: host_killed(made),
            lambda: workers_gone(made),
            lambda: network_cut(made),
            *(partial(server_stopped, made, name, server) for name, server in outages.items()),
            lambda: stored(made, asked.series),
            *((partial(few_files, made, made.s3),) if made.s3 else ()),
        ):
            checks.append(check := examine())
            print(f"{'ok  ' if check.holds else 'FAIL'} {check.sentence}: {check.figures}", flush=True)
        watch.stop()
    load = os.getloadavg()[0]
    print(f"{asked.series} series on m1, {os.cpu_count()} cores, load {load:.1f} at the end")
    return int(not all(check.holds for check in checks))


@contextmanager
def cluster(series: int, more: str, workers: Sequence[str] = WORKERS, *, is_lake: bool = False) -> Iterator[Cluster]:
    """The cluster, once its first refresh has succeeded; `more` is the rest of the market's YAML."""
    folder = Path(tempfile.mkdtemp(prefix="refresh-cluster-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cards = stack.enter_context(network())
        postgres = stack.enter_context(postgres_server(ADDRESS))
        broker = stack.enter_context(redis_server(address=ADDRESS))
        s3 = stack.enter_context(s3_server(ADDRESS)) if is_lake else None
        prepare(folder, series, more, (postgres.new_database(), broker))
        if s3 is not None:
            lake = f"ducklake:{postgres.new_database()}?data=s3://{BUCKET}/lake"
            os.environ |= {**s3.environment, "REFRESH_WAREHOUSE": lake}
        made = Cluster(folder, postgres, stack.enter_context(dg.DagsterInstance.get()), cards, s3)
        stack.callback(lambda: [made.kill(host) for host in list(made.hosts)])
        made.start("alpha", sys.executable, "-m", "dagster._daemon", "run", "-m", "refresh_pipeline.definitions")
        for host in workers:
            made.start_worker(host)
        if not within(600, lambda: bool(made.succeeded())):
            sys.exit("".join((folder / f"{host}.log").read_text()[-2000:] for host in ("alpha", *workers)))
        yield made


def watched(made: Cluster) -> HealthWatch:
    """Who asks the API, once it says that all is well."""
    watch = made.watch or made.start_api("delta")
    if not within(300, watch.is_green):
        sys.exit(f"the API says that all is not well: {[watch.newest(path) for path in ('/health', '/metrics')]}")
    return watch


def prepare(folder: Path, series: int, more: str, servers: tuple[str, str]) -> None:
    """Write the files that the hosts share, and set their environment; `servers` are PostgreSQL's and Redis' URLs."""
    for name in ("markets", "dagster", "home"):
        (folder / name).mkdir()
    names = ", ".join(f"A{number:04d}/USD" for number in range(series))
    (folder / "markets" / "grid.yaml").write_text(MARKET.format(names=names, more=more))
    (folder / "dagster" / "dagster.yaml").write_text(shipped("dagster-cluster.yaml").read_text())
    os.environ |= {
        "HOME": str(folder / "home"),
        "REFRESH_DATA_DIR": str(folder / "data"),
        "REFRESH_MARKETS_DIR": str(folder / "markets"),
        "REFRESH_MARKETS": "grid",
        "DAGSTER_HOME": str(folder / "dagster"),
        "REFRESH_POSTGRES_URL": servers[0],
        "REFRESH_REDIS_URL": servers[1],
        "REFRESH_API_KEY": API_KEY,
    }
    os.chdir(folder)


def undisturbed(made: Cluster, minutes: int) -> Check:
    """Every minute has a run that succeeds."""
    begin = datetime.now(UTC)
    time.sleep(60 * minutes + 30)
    return complete(made, begin, begin + timedelta(minutes=minutes), "undisturbed, no tick is skipped", allowed=0)


def host_killed(made: Cluster) -> Check:
    """A host is killed in a run: one tick may be lost, the next but one is complete."""
    busy: list[str] = []
    if not within(180, lambda: bool(host := made.host_at_work()) and not busy.append(host)):
        return Check("a host is killed in a run", False, "no host was at work within 180 s")
    watch, begin = watched(made), time.monotonic()
    at = datetime.now(UTC)
    made.kill(busy[0])
    within(300, lambda: any(tick > at for tick in made.succeeded()))
    seconds = (datetime.now(UTC) - at).total_seconds()
    within(120, lambda: not stale(made, at))
    made.start_worker(busy[0])
    missed = watch.seconds_to_workers(len(WORKERS) - 1, begin)
    sentence = (
        f"one of two workers is killed in a run: a later tick succeeds within {NEXT_SUCCESS:.0f} s, no run stays "
        f"started, /metrics counts one worker within {TO_RED:.0f} s"
    )
    figures = f"{busy[0]} killed, next success after {seconds:.0f} s, one worker counted after {missed:.0f} s"
    return Check(sentence, seconds < NEXT_SUCCESS and not stale(made, at) and missed <= TO_RED, figures)


def workers_gone(made: Cluster) -> Check:
    """All workers are killed: the API says so, and that all is well again once they are back."""
    watch = watched(made)
    if not within(240, lambda: (look := watch.newest("/metrics")) is not None and look.workers == len(WORKERS)):
        return Check("all workers are killed", False, "/metrics did not count both before")
    begin = time.monotonic()
    for host in WORKERS:
        made.kill(host)
    within(TO_RED, lambda: max(watch.seconds(begin, red=True)) < TO_RED)
    back = time.monotonic()
    for host in WORKERS:
        made.start_worker(host)
    return coloured("all workers are killed", watch, begin, back)


def coloured(what: str, watch: HealthWatch, begin: float, mended: float) -> Check:
    """Whether /health and /metrics turned red after `begin`, and green after it was mended."""
    within(TO_GREEN, watch.is_green)
    red, green = watch.seconds(begin, red=True), watch.seconds(mended, red=False)
    holds = max(red) <= TO_RED and max(green) <= TO_GREEN and watch.is_green()
    first = watch.first("/health", begin, red=True)
    sentence = f"{what}: /health and /metrics are red within {TO_RED:.0f} s, and green again within {TO_GREEN:.0f} s"
    figures = (
        f"red after {red[0]:.0f} and {red[1]:.0f} s ({', '.join(first.faults) if first else 'nothing'}), green "
        f"{green[0]:.0f} and {green[1]:.0f} s after its end"
    )
    return Check(sentence, holds, figures)


def network_cut(made: Cluster) -> Check:
    """A host that works on a run is cut off for a minute: others go on, and it works again afterwards."""
    busy: list[str] = []
    if not within(180, lambda: bool(host := made.host_at_work()) and not busy.append(host)):
        return Check("the network of a host is cut", False, "no host was at work within 180 s")
    at = datetime.now(UTC)
    made.network.cut(busy[0])
    time.sleep(CUT)
    is_ended = within(120, lambda: not stale(made, at))
    made.network.mend(busy[0])
    succeeds = within(NEXT_SUCCESS, lambda: any(tick > at for tick in made.succeeded()))
    seconds = (datetime.now(UTC) - at).total_seconds()
    is_back = within(300, lambda: made.host_at_work() == busy[0])
    sentence = (
        f"the network of a host in a run is cut for {CUT:.0f} s: a later tick succeeds within {NEXT_SUCCESS:.0f} s of "
        "its end, its run ends, it works again"
    )
    figures = (
        f"{busy[0]} cut, its run {'ended' if is_ended else 'did not end'} meanwhile, next success after {seconds:.0f} s"
    )
    return Check(
        sentence, succeeds and is_ended and is_back, f"{figures}, {'at work again' if is_back else 'not at work again'}"
    )


def first_refresh(series: int, *, is_lake: bool) -> Check:
    """The first refresh of a day with all columns, by one worker as one run and by two as two chunks."""
    seconds = {}
    for workers in (WORKERS[:1], WORKERS):
        chunks = "" if len(workers) == 1 else f", chunks: {-(-series // len(workers))}"
        with cluster(series, f"history: 1d{chunks}", workers, is_lake=is_lake) as made:
            tick = min(made.succeeded()).isoformat()
            records = made.instance.get_run_records(dg.RunsFilter(job_name=JOB, tags={TICK_TAG: tick}))
            begin, end = min(each.start_time or 0.0 for each in records), max(each.end_time or 0.0 for each in records)
            seconds[len(workers)] = end - begin
    ratio, load = seconds[2] / seconds[1], os.getloadavg()[0]
    figures = f"{seconds[1]:.1f} s by one, {seconds[2]:.1f} s by two, ratio {ratio:.2f}, load {load:.1f}"
    sentence = f"the first refresh of {series} series takes two workers at most {MOST_OF_ONE} of one's time"
    return Check(sentence, ratio <= MOST_OF_ONE, figures)


def stale(made: Cluster, before: datetime) -> list[str]:
    """Runs of ticks before an instant that still count as going."""
    going = (DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.QUEUED)
    return [tick for tick, status in made.ticks() if status in going and datetime.fromisoformat(tick) < before]


def server_stopped(made: Cluster, name: str, server: PostgresServer | S3Server) -> Check:
    """A server is away for 30 s: ticks go on after it, and the API says what is wrong meanwhile."""
    watch, begin = watched(made), time.monotonic()
    server.stop()
    time.sleep(30)
    server.start()
    at, mended = datetime.now(UTC), time.monotonic()
    within(300, lambda: any(tick > at for tick in made.succeeded()))
    seconds = (datetime.now(UTC) - at).total_seconds()
    within(120, lambda: not stale(made, at))
    told = coloured(f"{name} is stopped for 30 s", watch, begin, mended)
    sentence = f"{told.sentence}; a later tick succeeds within {NEXT_SUCCESS:.0f} s, and no run stays started"
    holds = told.holds and seconds < NEXT_SUCCESS and not stale(made, at)
    return Check(sentence, holds, f"{told.figures}; next success {seconds:.0f} s after its start")


def stored(made: Cluster, series: int) -> Check:
    """Every candle is stored once, up to the newest tick that has succeeded."""
    tick = max(made.succeeded())
    question = (
        "select count(*), count(distinct (instrument, open_time)), count(distinct instrument) "
        "from grid.raw_candles where open_time < ?"
    )
    spans = (
        "select count(*) from (select instrument, count(*) as stored, max(open_time) as newest, "
        "(epoch(max(open_time)) - epoch(min(open_time))) / 60 + 1 as wanted from grid.raw_candles group by instrument) "
        "where stored <> wanted or newest < ?"
    )
    with connect(load_settings().warehouse, read_only=True) as connection:
        newest = tick.astimezone(UTC).replace(tzinfo=None) - timedelta(minutes=1)
        [(rows, distinct, instruments)] = connection.execute(question, [newest + timedelta(minutes=1)]).fetchall()
        [(broken,)] = connection.execute(spans, [newest]).fetchall()
    holds = rows == distinct and instruments == series and broken == 0
    return Check(
        "0 candles lost, 0 twice", holds, f"{rows} candles, {rows - distinct} twice, {broken} series with holes"
    )


def few_files(made: Cluster, s3: S3Server) -> Check:
    """What maintenance leaves of the files in the bucket."""
    before = by_table(s3)
    environment = {**os.environ, "REFRESH_DATA_DIR": str(made.folder / "data-alpha")}
    done = subprocess.run(
        [sys.executable, "-c", RUN.strip("'"), "maintain"], check=False, env=environment, capture_output=True, text=True
    )
    after = by_table(s3)
    figures = f"{before.total()} before, {after.total()} after: {dict(after)}{done.stderr[-500:]}"
    sentence = f"upkeep leaves fewer than {MOST_FILES} files of the lake"
    return Check(sentence, done.returncode == 0 and after.total() < MOST_FILES, figures)


def by_table(s3: S3Server) -> Counter[str]:
    """The files in the bucket by table, those with deleted rows apart."""
    return Counter(
        f"{key.split('/')[2]}{' (deletes)' if 'delete' in key.rpartition('/')[2] else ''}" for key in s3.keys("lake/")
    )


def complete(made: Cluster, begin: datetime, end: datetime, sentence: str, allowed: int) -> Check:
    """Whether each minute in between has a run that succeeded."""
    first = begin.replace(second=0, microsecond=0) + timedelta(minutes=1)
    wanted = {first + timedelta(minutes=number) for number in range(int((end - first).total_seconds() // 60) + 1)}
    missing = wanted - made.succeeded()
    return Check(sentence, len(missing) <= allowed, f"{len(wanted) - len(missing)} of {len(wanted)} ticks succeeded")


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    """Whether something becomes true in so many seconds."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


if __name__ == "__main__":
    sys.exit(main())
