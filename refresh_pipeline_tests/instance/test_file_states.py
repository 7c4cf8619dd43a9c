"""The states of files: a change shows, Python's own files and missing ones do not."""

from pathlib import Path

from refresh_pipeline.instance.file_states import file_states


def test_files_that_importing_writes_are_no_change(tmp_path: Path):
    (tmp_path / "module.py").write_text("")
    before = file_states([tmp_path, tmp_path / "missing.yaml"])
    assert before.keys() == {str(tmp_path / "module.py")}
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.cpython-311.pyc").write_bytes(b"")
    assert file_states([str(tmp_path)]) == before


def test_a_written_file_a_new_one_and_a_deleted_one_are_changes(tmp_path: Path):
    module = tmp_path / "module.py"
    module.write_text("")
    states = [file_states([tmp_path])]
    module.write_text("x = 1")
    states.append(file_states([tmp_path]))
    (tmp_path / "new.yaml").write_text("name: new")
    states.append(file_states([tmp_path]))
    module.unlink()
    states.append(file_states([tmp_path]))
    assert all(state not in states[:number] for number, state in enumerate(states))


def test_a_file_that_appears_is_a_change(tmp_path: Path):
    file = tmp_path / "config.json"
    before = file_states([file])
    assert before == {}
    file.write_text("{}")
    assert file_states([file]).keys() == {str(file)}
