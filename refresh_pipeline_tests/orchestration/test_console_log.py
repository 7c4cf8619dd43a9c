"""What runs print on the console where they are to be quiet."""

import re

import dagster as dg
import pytest
from dagster._core.execution import context_creation_job

from refresh_pipeline.orchestration.console_log import DEFAULTS, use_console_log
from refresh_pipeline.redaction import request_secrets


@dg.op
def careful(context: dg.OpExecutionContext) -> int:
    context.log.info("all is well")
    context.log.warning("one host is slow")
    raise ValueError("wanted: a number\nfound: a-very-long-secret")


@dg.op
def after(number: int) -> None:
    raise AssertionError(number)


@dg.op
def stopped() -> None:
    raise RuntimeError("INTERRUPT Error: Interrupted!: Query interrupted")


@dg.job
def failing() -> None:
    after(careful())


@dg.job
def interrupted() -> None:
    stopped()


def test_a_failure_is_one_line_and_an_interrupt_is_none(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(context_creation_job, DEFAULTS, getattr(context_creation_job, DEFAULTS))
    use_console_log("warning")
    with request_secrets(["a-very-long-secret"]):
        failing.execute_in_process(raise_on_error=False)
    interrupted.execute_in_process(raise_on_error=False)
    lines = [re.sub(r"^[\d-]+ [\d:]+ (\w+) \(run \w{8}\)", r"\1", line) for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "failing: one host is slow",
        "failing: careful failed: ValueError: wanted: a number found: ***",
    ]


def test_more_is_printed_where_more_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(context_creation_job, DEFAULTS, getattr(context_creation_job, DEFAULTS))
    use_console_log("info")
    failing.execute_in_process(raise_on_error=False)
    printed = capfd.readouterr().err
    assert "all is well" in printed
    assert "Stack Trace" in printed
    assert "\x1b" not in printed
