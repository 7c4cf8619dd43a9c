"""The process that runs are forked from: it has imported what a run needs, and does nothing but fork.

Started by `launcher`, which writes a line for each run (what Dagster's own `dagster api execute_run` takes) and reads
the id of the run's process. A fork of a process without threads, connections or open databases is safe, and costs
milliseconds where a new process spends seconds on imports. It ends when its standard input does; the runs go on.
"""

import gc
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from io import RawIOBase
from typing import BinaryIO

# What a run imports late, beside the project: how it is executed, where its events go, how it fetches.
IMPORTED = ("dagster._cli.api", "dagster._core.storage.runs", "refresh_pipeline.instance.event_log", "httpx")


def main() -> None:
    """Import, then fork a process for every line of standard input until it ends."""
    # An interrupt in the terminal is meant for whoever started this one, and ends this one by ending its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: _bury())
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever else is printed goes where errors go.
    os.dup2(2, 1)
    _prepare(sys.argv[1])
    # What is there now is never collected: a collection in a fork would copy every page that it touches.
    gc.collect()
    gc.freeze()
    _fork_for_each_line(sys.stdin.buffer, answers)


def _prepare(module: str) -> None:
    """Import a run's modules, and what loading the definitions imports; of what fails here the run will tell."""
    for each in IMPORTED:
        with suppress(Exception):
            import_module(each)
    with suppress(Exception):
        import_module(module).defs()


def _fork_for_each_line(lines: BinaryIO, answers: RawIOBase) -> None:
    for line in lines:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                answers.close()
                code = _run(line.decode().rstrip("\n"))
            except BaseException:
                # Nobody above would print it.
                traceback.print_exc()
            finally:
                # Never back into the loop, whatever happened.
                os._exit(code)
        answers.write(b"%d\n" % pid)


def _run(arguments: str) -> int:
    """What `dagster api execute_run` does, in this process; gives its exit code."""
    from dagster._cli.api import execute_run_command  # noqa: PLC0415 (imported long before the fork)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull, "rb") as nothing:
        # The lines to come are the starter's.
        os.dup2(nothing.fileno(), 0)
    try:
        execute_run_command.main([arguments], standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _bury() -> None:
    """Take note of forks that have ended: without that they stay in the table of processes."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
