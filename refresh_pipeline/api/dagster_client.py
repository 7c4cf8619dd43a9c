"""Dagster over the GraphQL of its web UI: runs, schedules, sensors, daemons. No import of Dagster.

The web UI stands behind our guard, so a key of REFRESH_API_KEY goes along. Every question is held against Dagster's
schema by a test.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.settings import PACKAGE, Settings

if TYPE_CHECKING:
    import httpx

SECONDS = 15.0
SECONDS_AWAY, SECONDS_KEPT = 3.0, 3.0
REPOSITORY = "__repository__"
# States of a run that has ended.
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
GOING = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING", "MANAGED")

# A code location of which Dagster says neither that it is loaded nor why it is not.
BEING_LOADED = "they are being loaded"
RUN = "runId jobName status creationTime startTime endTime tags { key value }"
PYTHON_ERROR = "... on PythonError { message }"
QUERIES = {
    "repositories": f"""
query Repositories {{ repositoriesOrError {{ __typename ... on RepositoryConnection {{
  nodes {{ name location {{ name }} }} }} {PYTHON_ERROR} }} }}""",
    "locations": f"""
query Locations {{ workspaceOrError {{ __typename ... on Workspace {{
  locationEntries {{ name loadStatus locationOrLoadError {{ __typename {PYTHON_ERROR} }} }} }} {PYTHON_ERROR} }} }}""",
    "launch": f"""
mutation Launch($params: ExecutionParams!) {{ launchRun(executionParams: $params) {{ __typename
  ... on LaunchRunSuccess {{ run {{ {RUN} }} }} ... on RunConfigValidationInvalid {{ errors {{ message }} }}
  ... on InvalidSubsetError {{ message }} ... on PipelineNotFoundError {{ message }} {PYTHON_ERROR} }} }}""",
    "runs": f"""
query Runs($filter: RunsFilter, $cursor: String, $limit: Int) {{
  runsOrError(filter: $filter, cursor: $cursor, limit: $limit) {{ __typename
    ... on Runs {{ results {{ {RUN} }} }} {PYTHON_ERROR} }} }}""",
    "run": f"""
query Run($id: ID!) {{ runOrError(runId: $id) {{ __typename ... on Run {{ {RUN} }} {PYTHON_ERROR} }} }}""",
    "cancel": f"""
mutation Cancel($id: String!) {{ terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) {{ __typename
  ... on TerminateRunFailure {{ message }} {PYTHON_ERROR} }} }}""",
    "instigators": f"""
query Instigators($repository: RepositorySelector!) {{
  schedulesOrError(repositorySelector: $repository) {{ __typename ... on Schedules {{ results {{
    name cronSchedule executionTimezone pipelineName futureTicks(limit: 1) {{ results {{ timestamp }} }}
    scheduleState {{ id status ticks(limit: 1) {{ timestamp status }} }} }} }} {PYTHON_ERROR} }}
  sensorsOrError(repositorySelector: $repository) {{ __typename ... on Sensors {{ results {{
    name minIntervalSeconds sensorState {{ id status nextTick {{ timestamp }}
    ticks(limit: 1) {{ timestamp status cursor }} }} }} }} {PYTHON_ERROR} }} }}""",
    "start schedule": f"""
mutation StartSchedule($selector: ScheduleSelector!) {{ startSchedule(scheduleSelector: $selector) {{ __typename
  {PYTHON_ERROR} }} }}""",
    "stop schedule": f"""
mutation StopSchedule($id: String!) {{ stopRunningSchedule(id: $id) {{ __typename {PYTHON_ERROR} }} }}""",
    "start sensor": f"""
mutation StartSensor($selector: SensorSelector!) {{ startSensor(sensorSelector: $selector) {{ __typename
  {PYTHON_ERROR} }} }}""",
    "stop sensor": f"""
mutation StopSensor($id: String!) {{ stopSensor(id: $id) {{ __typename {PYTHON_ERROR} }} }}""",
    "daemons": """
query Daemons { instance { runLauncher { name }
  daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } } }""",
}

log = logging.getLogger("refresh_pipeline.api")


class Kind(StrEnum):
    """What starts runs by itself."""

    schedule = "schedule"
    sensor = "sensor"


@dataclass(frozen=True, slots=True)
class Instigator:
    """A schedule or a sensor; instants are seconds since 1970."""

    name: str
    kind: Kind
    id: str
    is_running: bool
    cron: str | None
    zone: str | None
    next_tick: float | None
    last_tick: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as Dagster records it; instants are seconds since 1970."""

    id: str
    job: str
    status: str
    queued_at: float | None
    started_at: float | None
    ended_at: float | None
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Run":
        """A run of GraphQL's answer."""
        tags = {tag["key"]: tag["value"] for tag in row["tags"]}
        times = (row["creationTime"], row["startTime"], row["endTime"])
        return cls(row["runId"], row["jobName"], row["status"], *times, tags)

    @property
    def has_ended(self) -> bool:
        """Whether it is over, however it went."""
        return self.status in ENDED


class DagsterClient:
    """Asks Dagster's web UI; every method raises ProblemError control-unavailable where it does not answer."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.dagster_url
        keys = settings.api_key.get_secret_value().split(",") if settings.api_key else []
        key = next((part.strip() for part in keys if part.strip()), None)
        self._headers = {"X-API-Key": key} if key else {}
        self._client: httpx.AsyncClient | None = None
        self._location_name: str | None = None
        # Until when Dagster is taken for away; the newest finished run of jobs, with when it was asked for.
        self._away_until = 0.0
        self._newest: dict[str, tuple[float, Run | None]] = {}

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def run_url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.url}/runs/{run_id}"

    async def launch(self, job: str, tags: Mapping[str, str], run_config: Mapping[str, Any]) -> Run:
        """Queue a run of a job.

        Raises:
            ProblemError: control-unavailable, also where the code server does not know the job yet.
        """
        location = await self._location()
        selector = {"repositoryName": REPOSITORY, "repositoryLocationName": location, "pipelineName": job}
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        params = {"selector": selector, "runConfigData": run_config, "executionMetadata": {"tags": listed}}
        answer = (await self.ask("launch", params=params))["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise _unavailable(f"Dagster does not start {job}: {_reason(answer)}")
        return Run.of(answer["run"])

    async def runs(
        self,
        *,
        jobs: Sequence[str] = (),
        statuses: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int = 50,
        created_after: float | None = None,
    ) -> list[Run]:
        """Runs, newest first; of the first of `jobs` alone where Dagster filters, all of them by us."""
        wanted: dict[str, Any] = {"statuses": list(statuses)} if statuses else {}
        wanted |= {"pipelineName": jobs[0]} if len(jobs) == 1 else {}
        wanted |= {"tags": [{"key": key, "value": value} for key, value in tags.items()]} if tags else {}
        wanted |= {"createdAfter": created_after} if created_after is not None else {}
        answer = (await self.ask("runs", filter=wanted, cursor=after, limit=limit))["runsOrError"]
        return [Run.of(row) for row in _results(answer) if not jobs or row["jobName"] in jobs]

    async def newest_finished(self, jobs: Sequence[str]) -> dict[str, Run | None]:
        """The newest run of each job that succeeded or failed, all asked side by side; some seconds old at most."""
        now = asyncio.get_running_loop().time()
        missing = [job for job in jobs if job not in self._newest or now - self._newest[job][0] > SECONDS_KEPT]
        answers = await asyncio.gather(*(self.runs(jobs=[job], statuses=ENDED[:2], limit=1) for job in missing))
        self._newest |= {job: (now, runs[0] if runs else None) for job, runs in zip(missing, answers, strict=True)}
        return {job: self._newest[job][1] for job in jobs}

    async def run(self, run_id: str) -> Run | None:
        """One run; None where Dagster knows none of this id."""
        answer = (await self.ask("run", id=run_id))["runOrError"]
        return Run.of(answer) if answer["__typename"] == "Run" else None

    async def finished(self, run_id: str, seconds: float) -> Run | None:
        """The run once it has ended, or as it stands after so many seconds."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + seconds, 0.1
        while (run := await self.run(run_id)) is not None and not run.has_ended and loop.time() < deadline:
            await asyncio.sleep(min(pause, max(deadline - loop.time(), 0)))
            pause = min(pause * 1.5, 1.0)
        return run

    async def cancel(self, run_id: str) -> None:
        """End a run in order."""
        answer = (await self.ask("cancel", id=run_id))["terminateRun"]
        if answer["__typename"] not in ("TerminateRunSuccess", "RunNotFoundError"):
            raise _unavailable(f"Dagster does not cancel the run: {_reason(answer)}")

    async def instigators(self) -> list[Instigator]:
        """Every schedule and sensor."""
        location = await self._location()
        selector = {"repositoryName": REPOSITORY, "repositoryLocationName": location}
        answer = await self.ask("instigators", repository=selector)
        schedules = [_schedule(row) for row in _results(answer["schedulesOrError"])]
        return schedules + [_sensor(row) for row in _results(answer["sensorsOrError"])]

    async def switch(self, instigator: Instigator, on: bool) -> None:
        """Start or stop a schedule or a sensor; does nothing where it is so already."""
        if instigator.is_running is on:
            return
        if not on:
            answer = await self.ask(f"stop {instigator.kind}", id=instigator.id)
        else:
            place = {"repositoryName": REPOSITORY, "repositoryLocationName": await self._location()}
            selector = {**place, f"{instigator.kind}Name": instigator.name}
            answer = await self.ask(f"start {instigator.kind}", selector=selector)
        [result] = answer.values()
        if result["__typename"].endswith("Error"):
            raise _unavailable(f"Dagster does not switch {instigator.name}: {_reason(result)}")

    async def load_fault(self) -> str:
        """Why the web UI has no code location loaded, in one line; an empty text where it has."""
        workspace = (await self.ask("locations"))["workspaceOrError"]
        if workspace["__typename"] != "Workspace":
            return _reason(workspace)
        entries = workspace["locationEntries"]
        errors = [error for each in entries if "message" in (error := each["locationOrLoadError"] or {})]
        if errors:
            return next((line.strip() for line in errors[0]["message"].splitlines() if line.strip()), "it has an error")
        loaded = bool(entries) and all(each["loadStatus"] == "LOADED" for each in entries)
        return "" if loaded else BEING_LOADED

    async def daemons(self) -> list[dict[str, Any]]:
        """The daemons with their last heartbeats."""
        return (await self.machinery())[0]

    async def machinery(self) -> tuple[list[dict[str, Any]], str]:
        """The daemons with their last heartbeats, and the class of the launcher of runs."""
        instance = (await self.ask("daemons"))["instance"]
        return instance["daemonHealth"]["allDaemonStatuses"], (instance["runLauncher"] or {}).get("name", "")

    async def ask(self, name: str, **variables: Any) -> dict[str, Any]:
        """The data of a question of QUERIES."""
        import httpx  # noqa: PLC0415 (3 MB, and answers from memory ask Dagster nothing)

        if self._client is None:
            self._client = httpx.AsyncClient(headers=self._headers, timeout=SECONDS, trust_env=False)
        question = {"query": QUERIES[name], "variables": variables}
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            raise _unavailable(f"{self.url} does not answer")
        try:
            answer = await self._client.post(f"{self.url}/graphql", json=question)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            # A page that asks ten questions must not wait ten times.
            self._away_until = loop.time() + SECONDS_AWAY
            raise _unavailable(f"{self.url} does not answer: {type(error).__name__}") from None
        if not isinstance(body, dict) or body.get("errors") or not body.get("data"):
            log.warning("Dagster answers %s to %s: %s", answer.status_code, name, str(body)[:500])
            raise _unavailable(f"{self.url} answers {answer.status_code}; its log says why")
        return body["data"]

    async def _location(self) -> str:
        """The name of the code location, which the workspace file chooses."""
        if self._location_name is None:
            answer = (await self.ask("repositories"))["repositoriesOrError"]
            names = [node["location"]["name"] for node in answer.get("nodes", ()) if node["name"] == REPOSITORY]
            if not names:
                raise _unavailable("Dagster has not loaded the definitions")
            chosen = next((str(name) for name in names if name.startswith(PACKAGE.name)), str(names[0]))
            self._location_name = chosen
            return chosen
        return self._location_name


def _unavailable(detail: str) -> ProblemError:
    text = f"{detail}; start refresh up, or set REFRESH_DAGSTER_URL"
    return ProblemError(Problem.control_unavailable, text, headers={"Retry-After": "5"})


def _reason(answer: Mapping[str, Any]) -> str:
    messages = [error["message"] for error in answer.get("errors", ())]
    return "; ".join(messages) or answer.get("message") or answer["__typename"]


def _results(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "results" not in answer:
        raise _unavailable(f"Dagster answers: {_reason(answer)}")
    return answer["results"]


def _schedule(row: Mapping[str, Any]) -> Instigator:
    state, future = row["scheduleState"], row["futureTicks"]["results"]
    return Instigator(
        row["name"],
        Kind.schedule,
        state["id"],
        state["status"] == "RUNNING",
        row["cronSchedule"],
        row["executionTimezone"],
        future[0]["timestamp"] if future else None,
        state["ticks"][0]["timestamp"] if state["ticks"] else None,
    )


def _sensor(row: Mapping[str, Any]) -> Instigator:
    state = row["sensorState"]
    following = (state["nextTick"] or {}).get("timestamp")
    last = state["ticks"][0]["timestamp"] if state["ticks"] else None
    is_running = state["status"] == "RUNNING"
    return Instigator(row["name"], Kind.sensor, state["id"], is_running, None, None, following, last)
