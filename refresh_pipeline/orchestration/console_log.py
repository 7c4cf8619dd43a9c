"""What runs print on the console: one line for a warning or a failure, Dagster's own lines where more is wanted.

Events, with tracebacks, are in Dagster's event log, whatever is printed here.
"""

import logging
import sys
from typing import Any

import dagster as dg
from dagster._core.execution import context_creation_job
from dagster._core.utils import coerce_valid_log_level
from dagster._utils.log import default_date_format_string, default_format_string

from refresh_pipeline.orchestration.failed_runs import failure_reason, is_interrupt
from refresh_pipeline.redaction import one_line

# Dagster's function that gives the loggers of a run whose configuration names none.
DEFAULTS = "default_system_loggers"
# Dagster logs these beside the failure that caused them.
CONSEQUENCES = ("Dependencies for step", "Execution of run for")


def use_console_log(level: str) -> None:
    """Let the runs of this process print from this level on, where their configuration names no logger.

    Dagster has one level for all runs, in dagster.yaml; this one comes with the program that starts them.
    """
    setattr(context_creation_job, DEFAULTS, lambda _instance: [(console, {"log_level": level.upper()})])


@dg.logger(config_schema={"log_level": str}, description="Warnings and failures in one line each, or all of Dagster's.")
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger of a run."""
    level = coerce_valid_log_level(context.logger_config["log_level"])
    logger = logging.Logger("dagster", level=level)
    logger.addHandler(_handler(level))
    return logger


def _handler(level: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    if level > logging.INFO:
        handler.addFilter(_is_news)
        handler.setFormatter(_OneLine("{asctime} {message}", "%Y-%m-%d %H:%M:%S", style="{"))
    else:
        handler.setFormatter(logging.Formatter(default_format_string(), default_date_format_string()))
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record says more than the failure that it follows from; an interrupt is what somebody wanted."""
    event = getattr(record, "dagster_event", None)
    if event is None or not event.is_failure:
        return not str(_metadata(record).get("orig_message", "")).startswith(CONSEQUENCES)
    if event.is_step_failure:
        return not is_interrupt(event.step_failure_data.error)
    # Where a step has failed, its own record says why.
    return event.event_type is dg.DagsterEventType.RUN_CANCELED or "Steps failed" not in (event.message or "")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        metadata, event = _metadata(record), getattr(record, "dagster_event", None)
        text = str(metadata.get("orig_message") or record.getMessage())
        if event is not None and event.event_type is dg.DagsterEventType.RUN_CANCELED:
            text = "canceled"
        elif event is not None and event.is_failure:
            text = f"{event.step_key or 'the run'} failed: {failure_reason(event)}"
        job, run = metadata.get("job_name"), str(metadata.get("run_id") or "")
        where = f"{job} (run {run[:8]}): " if job else ""
        line = logging.makeLogRecord({**record.__dict__, "msg": where + one_line(text), "args": ()})
        line.exc_info = line.exc_text = line.stack_info = None
        return super().format(line)


def _metadata(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "dagster_meta", None) or {}
