"""What steps print: into a file for the web UI, and on to where the run prints. Named in dagster.yaml."""

import os
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, TextIO

from dagster import Field
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData
from dagster._utils import ensure_file, touch_file

from refresh_pipeline.instance.sqlite_storage import FOLDER
from refresh_pipeline.settings import event_log_dir

# Seconds between two looks at what was printed.
LOOKS = 0.5
PIECE = 1 << 16


class StepLogs(LocalComputeLogManager):
    """The shipped class, with a thread that passes on what is printed.

    The shipped one starts four processes for each run: two of `tail`, and two of Python that watch them.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`base_dir` is optional: without it the files are in DAGSTER_HOME, where Dagster would put them."""
        return {"base_dir": FOLDER, "polling_timeout": Field(float, is_required=False)}

    # The shipped method returns the base class, whatever class it is called on.
    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> "StepLogs":
        """Called by Dagster with the settings of dagster.yaml."""
        folder = {"base_dir": str(event_log_dir().parents[1] / "storage")}
        return cls(inst_data=inst_data, **{**folder, **config_value})

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext, None, None]:
        """Write what the block prints into the two files of a step."""
        with ExitStack() as stack:
            for stream, kind in ((sys.stdout, ComputeIOType.STDOUT), (sys.stderr, ComputeIOType.STDERR)):
                path = self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind])
                stack.enter_context(_printed_twice(stream, path))
            yield CapturedLogContext(log_key)
        # The web UI shows a log as whole once this file is there.
        touch_file(self.complete_artifact_path(log_key))


@contextmanager
def _printed_twice(stream: TextIO, path: str) -> Iterator[None]:
    """Let what a stream is given go into a file, and from there to where the stream led before."""
    ensure_file(path)
    number = _number_of(stream)
    if number is None or os.name == "nt":
        with redirect_to_file(stream, path):
            yield
        return
    stream.flush()
    before, ended = os.dup(number), threading.Event()
    follower = threading.Thread(target=_follow, args=(Path(path), before, ended), name="step-log", daemon=True)
    follower.start()
    try:
        with redirect_to_file(stream, path):
            yield
    finally:
        ended.set()
        follower.join()
        os.close(before)


def _follow(path: Path, number: int, ended: threading.Event) -> None:
    """Copy what is appended to a file to a descriptor, until the end and what was written by then."""
    with path.open("rb", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        is_last = False
        while not is_last:
            is_last = ended.wait(LOOKS)
            while piece := file.read(PIECE):
                if not _written(number, piece):
                    return


def _written(number: int, piece: bytes) -> bool:
    """Whether somebody still listens, after all of a piece was written."""
    try:
        while piece:
            piece = piece[os.write(number, piece) :]
    except OSError:
        return False
    return True


def _number_of(stream: TextIO) -> int | None:
    """The descriptor of a stream; None for one that is no file, as tests have them."""
    try:
        return stream.fileno()
    except (AttributeError, UnsupportedOperation, ValueError):
        return None
