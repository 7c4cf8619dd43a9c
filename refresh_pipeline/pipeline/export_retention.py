"""Retention of export files that newer ones replaced; the last good copy of a file is never deleted."""

import csv
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from refresh_pipeline.files.reader import TableReader
from refresh_pipeline.files.writer import ExportError
from refresh_pipeline.market.export_spec import Export
from refresh_pipeline.market.model import Market
from refresh_pipeline.pipeline.export import STAMP, is_as_written, older_folder
from refresh_pipeline.warehouse.manifests import Exported

log = logging.getLogger("refresh_pipeline")

# What was deleted, when and why, one line a file; beside the files that were.
RECORD = "deleted.csv"
MEGABYTE = 1_000_000
STAMPED = re.compile(r"(?P<name>.+)\.(?P<stamp>\d{8}T\d{6}Z)(-(?P<number>\d+))?(?P<ending>(\.[a-z0-9]+){1,2})")


@dataclass(frozen=True, slots=True)
class Older:
    """A file that a newer one replaced, its time of writing, and its number among those of one second."""

    path: Path
    written: datetime
    bytes: int
    number: int = 1


@dataclass(frozen=True, slots=True)
class Deletion:
    """A file that goes, and why."""

    file: Older
    reason: str


def prune(
    market: Market, root: Path, files: Sequence[Exported], now: datetime, *, dry_run: bool = False
) -> list[Deletion]:
    """Delete older copies of a market's current `files` that its YAML does not want kept; `dry_run` only returns them.

    Current files are never touched, however large they are. Where one is missing or damaged, the newest older file that
    can be read is the last good copy, and stays.
    """
    deletions: list[Deletion] = []
    older = _older_by_path(root, [file.path for file in files])
    for export in market.exports.values():
        deletions += _deletions(export, root, [file for file in files if file.export == export.name], older, now)
    if not dry_run:
        for deletion in deletions:
            _delete(root, deletion, now)
    return deletions


def delete_orphans(root: Path, files: Sequence[Exported], now: datetime, *, dry_run: bool = False) -> list[Deletion]:
    """Delete files that no export of the YAML names any more, and their older copies; `dry_run` only returns them."""
    older = _older_by_path(root, [file.path for file in files])
    copies = [copy for file in files for copy in (Older(root / file.path, now, file.bytes), *older.get(file.path, ()))]
    deletions = [Deletion(copy, "no export of the YAML names it") for copy in copies]
    if not dry_run:
        for deletion in deletions:
            _delete(root, deletion, now)
    return deletions


def _deletions(
    export: Export, root: Path, files: Sequence[Exported], older: Mapping[str, Sequence[Older]], now: datetime
) -> list[Deletion]:
    # Asked only of files of which a copy may go: it reads all of the current file.
    last_good = cache(lambda file: _last_good(root, file, older[file.path]))
    deletions: list[Deletion] = []
    kept: list[tuple[Older, Exported]] = []
    taken = sum(file.bytes for file in files)
    for file in files:
        for number, copy in enumerate(older.get(file.path, ()), start=2):
            reason = _reason(export, number, copy, now)
            if reason and copy != last_good(file):
                deletions.append(Deletion(copy, reason))
            else:
                kept.append((copy, file))
                taken += copy.bytes
    return deletions + list(_over_budget(export, kept, taken, last_good))


def _reason(export: Export, number: int, file: Older, now: datetime) -> str:
    if number > export.keep.newest:
        return f"newest: {export.keep.newest}"
    if export.keep.days is not None and file.written < now - timedelta(days=export.keep.days):
        return f"days: {export.keep.days}"
    return ""


def _over_budget(
    export: Export,
    kept: Sequence[tuple[Older, Exported]],
    taken: int,
    last_good: Callable[[Exported], Older | None],
) -> Iterator[Deletion]:
    if export.keep.megabytes is None:
        return
    for copy, file in sorted(kept, key=lambda pair: (pair[0].written, pair[0].number)):
        if taken <= export.keep.megabytes * MEGABYTE:
            return
        if copy != last_good(file):
            taken -= copy.bytes
            yield Deletion(copy, f"megabytes: {export.keep.megabytes}")


def older_files(root: Path, path: str) -> list[Older]:
    """The kept copies of a file that newer ones replaced, newest first."""
    return _older_by_path(root, [path]).get(path, [])


def _older_by_path(root: Path, paths: Iterable[str]) -> dict[str, list[Older]]:
    """The kept copies of many files, newest first, by the path of the current file; each folder is listed once."""
    older: dict[str, list[Older]] = {}
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        for entry in _listed(older_folder(root) / folder):
            if match := STAMPED.fullmatch(entry.name):
                written = datetime.strptime(match["stamp"], STAMP).replace(tzinfo=UTC)
                copy = Older(Path(entry.path), written, entry.stat().st_size, int(match["number"] or 1))
                older.setdefault(f"{folder}/{match['name']}{match['ending']}", []).append(copy)
    return {
        path: sorted(copies, key=lambda copy: (copy.written, copy.number), reverse=True)
        for path, copies in older.items()
    }


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _last_good(root: Path, file: Exported, older: Sequence[Older]) -> Older | None:
    """The older file that must stay because nothing else of its series can be relied on."""
    if is_as_written(root, file):
        return None
    return next((each for each in older if _is_readable(each.path)), None)


def _is_readable(path: Path) -> bool:
    try:
        with TableReader() as reader:
            names = reader.names(path)
            return bool(len(reader.read(path, {names[0]: "M"})[names[0]])) if names else False
    except ExportError:
        return False


def _delete(root: Path, deletion: Deletion, now: datetime) -> None:
    try:
        deletion.file.path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: not deleted: %s", deletion.file.path, error)
        return
    log.info("deleted %s (%s)", deletion.file.path, deletion.reason)
    folder, path = older_folder(root), deletion.file.path
    name = path.relative_to(folder if path.is_relative_to(folder) else root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / RECORD).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([f"{now:{STAMP}}", name, deletion.file.bytes, deletion.reason])
    except OSError as error:
        log.warning("%s: deletion of %s not recorded: %s; check its permissions", folder / RECORD, name, error)
