"""What a person sees in a terminal while a step runs: a real pseudo-terminal, and Dagster's own redirection."""

import os
import pty
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 60.0
# A step that draws bars, and ends once it reads a line.
SCRIPT = """
import sys
import dagster as dg
from refresh_pipeline.cli.console import log_on, terminal
from refresh_pipeline.cli.tables import progress_bars
import logging

@dg.op
def step():
    watch("raw_candles", 2, 4)
    logging.getLogger("refresh_pipeline").warning("rate limited")
    sys.stdin.readline()

@dg.job
def work():
    step()

with (
    dg.DagsterInstance.local_temp(sys.argv[1]) as instance,
    terminal() as console,
    log_on(console, 0),
    progress_bars(console) as watch,
):
    work.execute_in_process(instance=instance)
"""


def read_until(terminal: int, text: str) -> str:
    """What the terminal receives until the text is in it, which must be before the deadline."""
    received, end = "", time.monotonic() + PATIENCE
    while text not in received:
        assert select.select([terminal], [], [], end - time.monotonic())[0], received
        received += os.read(terminal, 65536).decode(errors="replace")
    return received


def read_to_the_end(terminal: int) -> str:
    """What the terminal receives until its program has ended."""
    received = ""
    # Linux reports the end of the program as an error.
    with suppress(OSError):
        while chunk := os.read(terminal, 65536):
            received += chunk.decode(errors="replace")
    return received


def test_bars_and_log_reach_the_terminal_while_a_step_runs(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            received = read_until(ours, "2/4")
            process.communicate(b"\n", timeout=PATIENCE)
            received += read_to_the_end(ours)
        finally:
            process.kill()
            os.close(ours)
    assert process.returncode == 0
    assert "rate limited" in received
    logs = "".join(file.read_text() for file in tmp_path.rglob("*.err"))
    assert "2/4" not in logs
    assert "rate limited" not in logs


SENTENCE = "The key of the venue that was given is not the one that the account of the test expects: see the page"
PATH = "/a/folder/whose/name/is/longer/than/the/window/is/wide/and/stays/whole/in/one/piece.csv"
SPEAKS = f"""
from refresh_pipeline.cli.console import print_error, print_line, print_verbatim
from refresh_pipeline.cli.supervisor import _say
print_error({SENTENCE!r})
print_line({SENTENCE + " " + PATH!r})
_say({SENTENCE!r})
print_verbatim({SENTENCE!r})
"""


def test_sentences_break_at_words_in_a_narrow_window_and_nowhere_in_a_file() -> None:
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": "40", "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", SPEAKS], stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        lines = read_to_the_end(parent).replace("\r", "").splitlines()
        assert process.wait(PATIENCE) == 0
    os.close(parent)
    *broken, verbatim = lines
    assert verbatim == SENTENCE
    assert PATH in broken
    assert max(len(line) for line in broken if line != PATH) <= 40
    assert " ".join(line.strip() for line in broken) == " ".join([SENTENCE, SENTENCE, PATH, SENTENCE])
    written = subprocess.run(
        [sys.executable, "-c", SPEAKS], capture_output=True, text=True, env=environment, check=True
    )
    assert written.stdout.splitlines() == [f"{SENTENCE} {PATH}", SENTENCE]
    assert written.stderr.splitlines() == [SENTENCE] * 2
