"""Dagster's GraphQL in miniature, over real HTTP on loopback: runs that are queued and end, schedules, daemons."""

import json
import re
import time
from typing import Any

from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import LoopbackServer


class FakeDagster(LoopbackServer):
    """The web UI's /graphql. `runs` are newest first, `running` says which schedules and sensors are on."""

    def __init__(self, markets: tuple[str, ...] = ("fair", "mall")) -> None:
        super().__init__()
        self._markets = markets
        self.reset()

    def reset(self) -> None:
        """As if nothing had been asked yet."""
        self.runs: list[dict[str, Any]] = []
        self.launched: list[dict[str, Any]] = []
        self.running = {
            f"{market}_{job}": True for market in self._markets for job in ("refresh", "publish", "retry", "repair")
        }
        self.load_error = ""
        self.launcher, self.last_heartbeat = "WarmRunLauncher", 0.0
        # A run ends at the look at it after this one.
        self.ends_at_once = True

    async def answer(self, request: web.Request) -> web.Response:
        """The data of the operation that a question names."""
        question = json.loads(await request.text())
        name = re.match(r"\s*(?:query|mutation) (\w+)", question["query"])
        assert name is not None
        return web.json_response({"data": getattr(self, f"_{name[1].lower()}")(question["variables"])})

    def run_of(self, job: str, tags: dict[str, str], status: str = "QUEUED") -> dict[str, Any]:
        """A new run, which is the newest from now on."""
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        number = f"00000000-0000-4000-8000-{len(self.runs):012d}"
        now = time.time()
        run = {
            "runId": number,
            "jobName": job,
            "status": status,
            "creationTime": now,
            "startTime": now,
            "endTime": None,
        }
        self.runs.insert(0, run | {"tags": listed})
        return self.runs[0]

    def _repositories(self, _: Any) -> Any:
        nodes = [{"name": "__repository__", "location": {"name": "refresh_pipeline"}}]
        return {"repositoriesOrError": {"__typename": "RepositoryConnection", "nodes": nodes}}

    def _locations(self, _: Any) -> Any:
        error = {"__typename": "PythonError", "message": self.load_error}
        content = error if self.load_error else {"__typename": "RepositoryLocation"}
        entry = {"name": "refresh_pipeline", "loadStatus": "LOADED", "locationOrLoadError": content}
        return {"workspaceOrError": {"__typename": "Workspace", "locationEntries": [entry]}}

    def _launch(self, variables: Any) -> Any:
        params = variables["params"]
        self.launched.append(params)
        tags = {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
        run = self.run_of(params["selector"]["pipelineName"], tags)
        return {"launchRun": {"__typename": "LaunchRunSuccess", "run": run}}

    def _runs(self, variables: Any) -> Any:
        wanted = variables["filter"]
        tags = {(tag["key"], tag["value"]) for tag in wanted.get("tags", ())}
        found = [
            run
            for run in self.runs
            if run["jobName"] == wanted.get("pipelineName", run["jobName"])
            and run["status"] in wanted.get("statuses", [run["status"]])
            and tags <= {(tag["key"], tag["value"]) for tag in run["tags"]}
        ]
        return {"runsOrError": {"__typename": "Runs", "results": found[: variables["limit"]]}}

    def _run(self, variables: Any) -> Any:
        run = next((run for run in self.runs if run["runId"] == variables["id"]), None)
        if run is None:
            return {"runOrError": {"__typename": "RunNotFoundError"}}
        answered = {"__typename": "Run", **run}
        if self.ends_at_once and run["status"] == "QUEUED":
            run |= {"status": "SUCCESS", "endTime": time.time()}
        return {"runOrError": answered}

    def _cancel(self, variables: Any) -> Any:
        for run in self.runs:
            if run["runId"] == variables["id"]:
                run |= {"status": "CANCELED", "endTime": time.time()}
        return {"terminateRun": {"__typename": "TerminateRunSuccess"}}

    def _instigators(self, _: Any) -> Any:
        schedules = [self._schedule(name) for name in self.running if name.endswith(("refresh", "publish"))]
        sensors = [self._sensor(name) for name in self.running if name.endswith(("retry", "repair"))]
        return {
            "schedulesOrError": {"__typename": "Schedules", "results": schedules},
            "sensorsOrError": {"__typename": "Sensors", "results": sensors},
        }

    def _state(self, name: str) -> dict[str, Any]:
        status = "RUNNING" if self.running[name] else "STOPPED"
        return {"id": name, "status": status, "ticks": [{"timestamp": 1_700_000_000.0, "status": "SUCCESS"}]}

    def _schedule(self, name: str) -> dict[str, Any]:
        ticks = {"results": [{"timestamp": 1_700_000_060.0}]}
        cron = {"cronSchedule": "* * * * *", "executionTimezone": "UTC"}
        return {"name": name, **cron, "pipelineName": name, "futureTicks": ticks, "scheduleState": self._state(name)}

    def _sensor(self, name: str) -> dict[str, Any]:
        return {"name": name, "minIntervalSeconds": 30, "sensorState": self._state(name) | {"nextTick": None}}

    def _startschedule(self, variables: Any) -> Any:
        self.running[variables["selector"]["scheduleName"]] = True
        return {"startSchedule": {"__typename": "ScheduleStateResult"}}

    def _stopschedule(self, variables: Any) -> Any:
        self.running[variables["id"]] = False
        return {"stopRunningSchedule": {"__typename": "ScheduleStateResult"}}

    def _startsensor(self, variables: Any) -> Any:
        self.running[variables["selector"]["sensorName"]] = True
        return {"startSensor": {"__typename": "Sensor"}}

    def _stopsensor(self, variables: Any) -> Any:
        self.running[variables["id"]] = False
        return {"stopSensor": {"__typename": "StopSensorMutationResult"}}

    def _daemons(self, _: Any) -> Any:
        heard = self.last_heartbeat or time.time()
        daemon = {"daemonType": "SCHEDULER", "required": True, "healthy": True, "lastHeartbeatTime": heard}
        return {"instance": {"runLauncher": {"name": self.launcher}, "daemonHealth": {"allDaemonStatuses": [daemon]}}}
