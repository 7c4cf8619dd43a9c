"""Programs side by side: what ends them, and which one is restarted; with real processes."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from refresh_pipeline.cli.operate import supervisor_plan
from refresh_pipeline.cli.supervisor import Plan
from refresh_pipeline.settings import load_settings

# Says that it is there by a file of its process id, and waits.
STAYS = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(60)"
PATIENCE = 30.0


def plan_of(folder: Path, **programs: str) -> Plan:
    """Programs in Python, each with a folder in which it shows itself; `code` is the one that is renewed."""
    for name in programs:
        (folder / name).mkdir()
    (folder / "watched").mkdir()
    (folder / "temporary").mkdir()
    commands = {name: [sys.executable, "-c", text, str(folder / name)] for name, text in programs.items()}
    ready = str(folder / "ready" if "code" in programs and "ready" in programs["code"] else folder / "code")
    return Plan(
        commands, renewed="code", ready=ready, watched=[str(folder / "watched")], temporary=str(folder / "temporary")
    )


@contextmanager
def supervised(plan: Plan, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "refresh_pipeline.cli.supervisor", json.dumps(asdict(plan))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        try:
            yield process
        finally:
            process.kill()


def shown(folder: Path) -> set[int]:
    """The processes that have shown themselves."""
    return {int(path.name) for path in folder.iterdir()}


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_program(tmp_path: Path, number: int):
    with supervised(plan_of(tmp_path, code=STAYS, other=STAYS)) as process:
        wait_until(lambda: bool(shown(tmp_path / "code") and shown(tmp_path / "other")))
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    assert not any(is_alive(pid) for name in ("code", "other") for pid in shown(tmp_path / name))
    assert not (tmp_path / "temporary").exists()


def test_the_first_program_ends_last_as_the_others_complain_without_it(tmp_path: Path):
    tells = "import pathlib, signal, sys, time\nfolder = pathlib.Path(sys.argv[1])\n"
    tells += (
        "def end(*_):\n    time.sleep(0.2)\n    (folder / 'ended').write_text(str(time.monotonic()))\n    sys.exit()\n"
    )
    tells += "signal.signal(signal.SIGTERM, end)\n(folder / 'began').touch()\ntime.sleep(60)"
    with supervised(plan_of(tmp_path, code=tells, other=tells)) as process:
        wait_until(lambda: all((tmp_path / name / "began").exists() for name in ("code", "other")))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    other, code = (float((tmp_path / name / "ended").read_text()) for name in ("other", "code"))
    assert other + 0.2 <= code


def test_the_others_start_once_the_first_one_is_ready(tmp_path: Path):
    late = f"import pathlib, time; time.sleep(1); pathlib.Path({str(tmp_path / 'ready')!r}).touch(); {STAYS}"
    with supervised(plan_of(tmp_path, code=late, other=STAYS)) as process:
        wait_until(lambda: (tmp_path / "ready").exists() or bool(shown(tmp_path / "other")))
        assert not shown(tmp_path / "other")
        wait_until(lambda: bool(shown(tmp_path / "other")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_when_one_ends_by_itself_all_end_and_it_is_named(tmp_path: Path):
    with supervised(plan_of(tmp_path, code=STAYS, brief="raise SystemExit(3)")) as process:
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
    assert said == "The brief ended by itself with exit code 3.\n"
    assert not any(is_alive(pid) for pid in shown(tmp_path / "code"))


def test_a_change_on_disk_renews_one_program_and_leaves_the_others(tmp_path: Path):
    with supervised(plan_of(tmp_path, code=STAYS, other=STAYS)) as process:
        wait_until(lambda: bool(shown(tmp_path / "code") and shown(tmp_path / "other")))
        [old], [other] = shown(tmp_path / "code"), shown(tmp_path / "other")
        (tmp_path / "watched" / "crypto.yaml").write_text("name: crypto")
        wait_until(lambda: len(shown(tmp_path / "code")) == 2)
        assert not is_alive(old)
        assert shown(tmp_path / "other") == {other}
        assert is_alive(other)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_change_of_a_followed_file_leaves_the_companion_alone(tmp_path: Path):
    plan = plan_of(tmp_path, code=STAYS, API=STAYS)
    plan = replace(plan, companions=["API"], renewed_too=["API"], followed=[str(tmp_path / "watched" / "custom.yaml")])
    with supervised(plan) as process:
        wait_until(lambda: bool(shown(tmp_path / "code") and shown(tmp_path / "API")))
        (tmp_path / "watched" / "custom.yaml").write_text("name: custom")
        wait_until(lambda: len(shown(tmp_path / "code")) == 2)
        assert len(shown(tmp_path / "API")) == 1
        (tmp_path / "watched" / "crypto.yaml").write_text("name: crypto")
        wait_until(lambda: len(shown(tmp_path / "API")) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_companion_that_never_starts_well_is_restarted_ever_later_and_then_stays_off(tmp_path: Path):
    told = tmp_path / "told"
    alert = [sys.executable, "-c", f"import sys; open({str(told)!r}, 'a').write(sys.argv[1] + chr(10))"]
    plan = plan_of(tmp_path, code=STAYS, API="raise SystemExit(2)")
    plan = replace(plan, companions=["API"], renewed_too=["API"], pauses=[0.1, 0.2], alert=alert)
    with supervised(plan) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(3)]
        wait_until(told.exists)
        (tmp_path / "watched" / "crypto.yaml").write_text("name: crypto")
        said += [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    ended = "The API ended by itself with exit code 2."
    assert said == [
        f"{ended} Restarting it in 0.1 s.\n",
        f"{ended} Restarting it in 0.2 s.\n",
        f"{ended} It was started 3 times and stays off: mend it, then restart refresh up.\n",
        "Files have changed: restarting the code and the API.\n",
        f"{ended} Restarting it in 0.1 s.\n",
    ]
    assert told.read_text() == "Refresh Pipeline: the API stays off\n"


@pytest.mark.parametrize("longest", [60.0, 0.5])
def test_a_program_that_does_not_end_holds_up_neither_an_interrupt_nor_its_restart(tmp_path: Path, longest: float):
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"
    plan = replace(plan_of(tmp_path, code=deaf), longest_end=longest)
    with supervised(plan) as process:
        wait_until(lambda: len(shown(tmp_path / "code")) == 1)
        time.sleep(1.0)
        (tmp_path / "watched" / "new.yaml").touch()
        assert process.stderr is not None
        assert process.stderr.readline() == "Files have changed: restarting the code.\n"
        if longest < 1:
            wait_until(lambda: len(shown(tmp_path / "code")) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "Stopping the programs.\n"
        for number in shown(tmp_path / "code"):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        assert process.wait(PATIENCE) == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed on Linux alone")
def test_what_a_program_started_does_not_outlive_an_interrupt(tmp_path: Path):
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"
    (tmp_path / "run").mkdir()
    starts = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}, {str(tmp_path / 'run')!r}])"
    told = tmp_path / "told"
    command = [sys.executable, "-c", f"import sys; open({str(told)!r}, 'w').write(' '.join(sys.argv[1:]))"]
    plan = replace(plan_of(tmp_path, code=STAYS, daemon=f"{starts}; {STAYS}"), end_runs=command)
    with supervised(plan) as process:
        wait_until(lambda: all(shown(tmp_path / name) for name in ("code", "daemon", "run")))
        [run], [code], [daemon] = (shown(tmp_path / name) for name in ("run", "code", "daemon"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert told.read_text() == f"60.0 {code} {daemon}"
    assert said == f"Stopping the programs.\nKilled processes that had not ended: {run}.\n"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc to compile a library that shifts the clock")
def test_a_clock_that_is_set_back_is_said_and_restarts_what_waits_by_it(tmp_path: Path):
    plan = plan_of(tmp_path, code=STAYS, other=STAYS)
    looked = tmp_path / "looked"
    plan = replace(plan, clock=[sys.executable, "-c", f"open({str(looked)!r}, 'w')"], timed="other")
    shift = shifted_clock(tmp_path, 3 * 3600)
    with supervised(plan, LD_PRELOAD=str(tmp_path / "clock_shift.so"), SHIM_FILE=str(shift)) as process:
        wait_until(lambda: bool(shown(tmp_path / "code") and shown(tmp_path / "other")))
        time.sleep(1.0)
        shift.write_bytes(bytes(8))
        wait_until(lambda: len(shown(tmp_path / "other")) == 2)
        assert looked.exists()
        assert len(shown(tmp_path / "code")) == 1
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
    assert said == "The clock was set back by 10800 s: restarting the other.\nStopping the programs.\n"


def shifted_clock(folder: Path, seconds: int) -> Path:
    """A file that says by how much the clock is ahead, for processes that load `clock_shift.so` of the folder."""
    source = Path(__file__).parents[1] / "fakes" / "clock_shift.c"
    library = folder / "clock_shift.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    offset = folder / "offset"
    offset.write_bytes(struct.pack("q", seconds))
    return offset


def test_the_address_is_printed_once_it_answers(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    listens = f"server = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
    serves = f"import socket; {STAYS.replace('time.sleep(60)', listens)}"
    late = f"import time; time.sleep(1); {serves}"
    plan = replace(plan_of(tmp_path, code=STAYS, web=late), port=port)
    with supervised(plan) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"Ready: http://127.0.0.1:{port}\n"
        assert shown(tmp_path / "web")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == "Stopping the programs.\n"


def test_messages_that_nobody_reads_any_more_do_not_keep_programs_from_ending(tmp_path: Path):
    with supervised(plan_of(tmp_path, code=STAYS, other=STAYS)) as process:
        wait_until(lambda: bool(shown(tmp_path / "code") and shown(tmp_path / "other")))
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert not any(is_alive(pid) for name in ("code", "other") for pid in shown(tmp_path / name))


def test_nothing_is_ready_before_the_markets_are_loaded(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    serves = f"import socket, time; server = socket.create_server(('127.0.0.1', {port})); {STAYS}"
    asked = tmp_path / "asked"
    asks = f"""import pathlib
file = pathlib.Path({str(asked)!r})
before = len(file.read_text()) if file.exists() else 0
file.write_text("x" * (before + 1))
print(["they are being loaded", "they are being loaded", "no module", ""][min(before, 3)], end="")
raise SystemExit(before < 3)"""
    plan = replace(plan_of(tmp_path, code=STAYS, web=serves), port=port, ask_again=0.0)
    with supervised(replace(plan, loaded=[sys.executable, "-c", asks])) as process:
        assert process.stderr is not None
        first = f"The web UI answers at http://127.0.0.1:{port}, but the markets are not loaded: "
        said = [process.stderr.readline() for _ in range(3)]
        assert said == [f"{first}they are being loaded\n", f"{first}no module\n", f"Ready: http://127.0.0.1:{port}\n"]
        (tmp_path / "watched" / "crypto.yaml").write_text("name: crypto")
        assert process.stderr.readline() == "Files have changed: restarting the code.\n"
        assert process.stderr.readline() == f"Ready: http://127.0.0.1:{port}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == "Stopping the programs.\n"
    assert asked.read_text() == "xxxxx"


def test_the_supervising_process_imports_nothing_but_the_standard_library():
    script = "import refresh_pipeline.cli.supervisor, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    bare = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    foreign = set(answer.stdout.split()) - sys.stdlib_module_names - set(bare.stdout.split())
    assert foreign == {"refresh_pipeline"}


@pytest.mark.parametrize(("verbose", "level"), [(0, "warning"), (1, "info"), (5, "debug")])
def test_the_programs_are_quiet_unless_asked(tmp_path: Path, verbose: int, level: str) -> None:
    programs = supervisor_plan(load_settings(), 3000, tmp_path, verbose=verbose).programs
    for name in ("daemon", "code server"):
        command = list(programs[name])
        assert command[command.index("--log-level") + 1] == level
