"""Whether files have changed on disk: the code that a process has imported, or the settings that it has read.

Only the standard library: the process of `refresh up` uses it, and stays small (docs/decisions/0086).
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# Folders that hold neither code nor YAML of the project.
SKIPPED = {"__pycache__", ".git", ".venv"}


def file_states(paths: Sequence[str | Path]) -> dict[str, tuple[int, int]]:
    """Of each file, or file below a folder: when it was last written (nanoseconds), and its length (bytes).

    Files that do not exist are left out, and so is what Python writes while it imports.
    """
    states = {}
    for path in (file for name in paths for file in _files(Path(name))):
        try:
            stat = path.stat()
        except OSError:
            continue
        states[str(path)] = (stat.st_mtime_ns, stat.st_size)
    return states


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in SKIPPED]
        yield from (Path(folder) / name for name in names if not name.endswith(".pyc"))
