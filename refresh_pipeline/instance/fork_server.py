"""The process that runs are forked from: it has imported the modules of a run, and only forks.

`launcher` starts it, writes one line per run (the argument of `dagster api execute_run`) and reads the id of the run's
process. Forking is safe because the process has no threads, connections or open databases, and takes milliseconds where
a new process imports for seconds. The process ends at the end of its standard input; the runs go on. Decision 0085
compares it with the fork server of `multiprocessing`.
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

# The modules that a run imports late, besides the project: execution, event log, HTTP.
IMPORTED = ("dagster._cli.api", "dagster._core.storage.runs", "refresh_pipeline.instance.event_log", "httpx")


def main() -> None:
    """Import, then fork a process for every line of standard input until it ends."""
    # An interrupt in the terminal is for the launcher's process, whose end is the end of this one's input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: _reap_children())
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # Standard output is the answers' channel: everything that is printed goes to standard error.
    os.dup2(2, 1)
    import_modules_of_runs(sys.argv[1])
    # Frozen objects are never collected: a collection in a fork copies every memory page that it touches.
    gc.collect()
    gc.freeze()
    _fork_for_each_line(sys.stdin.buffer, answers)


def import_modules_of_runs(module: str) -> None:
    """Import a run's modules, and what loading the definitions of `module` imports; a run reports what fails here."""
    for name in IMPORTED:
        with suppress(Exception):
            import_module(name)
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
                # The fork ends below, so no caller prints the error.
                traceback.print_exc()
            finally:
                # A fork must never return into the loop.
                os._exit(code)
        answers.write(b"%d\n" % pid)


def _run(arguments: str) -> int:
    """Run `dagster api execute_run` in this process and return its exit code."""
    from dagster._cli.api import execute_run_command  # noqa: PLC0415 (imported long before the fork)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull, "rb") as empty:
        # The next lines of standard input belong to the fork server.
        os.dup2(empty.fileno(), 0)
    try:
        execute_run_command.main([arguments], standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _reap_children() -> None:
    """Collect the exit codes of runs that have ended; a run stays a zombie until then."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
