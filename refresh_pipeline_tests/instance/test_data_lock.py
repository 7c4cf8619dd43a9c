"""The lock of a data folder, with real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refresh_pipeline.instance.data_lock import DataFolderBusy, Holder, holder_of, lock_data_folder

# Locks the folder, replaces itself by another program, and waits until its standard input ends.
HOLDS = """
import os, sys
from pathlib import Path
from refresh_pipeline.instance.data_lock import lock_data_folder
lock_data_folder(Path(sys.argv[1]), "refresh up", 3210)
os.execv(sys.executable, [sys.executable, "-c", "import sys; print('held', flush=True); sys.stdin.read()"])
"""


def test_a_held_folder_is_refused_with_process_and_port_until_its_process_ends(tmp_path: Path):
    command = [sys.executable, "-P", "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DataFolderBusy, match=rf"refresh up \(process {process.pid}, port 3210\); stop"):
            lock_data_folder(tmp_path, "refresh restore")
        holder = holder_of(tmp_path)
        assert holder is not None
        assert (holder.command, holder.pid, holder.port) == ("refresh up", process.pid, 3210)
        process.kill()
        process.wait()
    assert holder_of(tmp_path) is None
    os.close(lock_data_folder(tmp_path, "refresh restore"))


def test_the_text_of_a_killed_process_holds_nothing(tmp_path: Path):
    (tmp_path / "service.lock").write_text("half a t")
    assert holder_of(tmp_path) is None
    descriptor = lock_data_folder(tmp_path / "new" / "folder", "refresh up", 3000)
    assert holder_of(tmp_path / "new" / "folder") is not None
    os.close(descriptor)


def test_a_holder_reads_as_a_process_with_its_port():
    assert str(Holder("refresh up", 7, 3000)) == "refresh up (process 7, port 3000)"
    assert str(Holder("refresh restore", 7)) == "refresh restore (process 7)"
