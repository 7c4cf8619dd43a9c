"""Which files that newer ones replaced are kept, and how long; the last good copy of a file is never deleted."""

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from refresh_pipeline.files.atomic import sha256_of
from refresh_pipeline.files.reader import TableReader
from refresh_pipeline.files.writer import ExportError, ending_of
from refresh_pipeline.market.export_spec import Export
from refresh_pipeline.market.model import Market
from refresh_pipeline.pipeline.export import STAMP, current_files, older_folder
from refresh_pipeline.warehouse.manifests import Exported
from refresh_pipeline.warehouse.warehouse import Warehouse

log = logging.getLogger("refresh_pipeline")

# What was deleted, when and why, one line a file; beside the files that were.
RECORD = "deleted.csv"
MEGABYTE = 1_000_000
STAMPED = re.compile(r"(?P<name>.+)\.(?P<stamp>\d{8}T\d{6}Z)")


@dataclass(frozen=True, slots=True)
class Older:
    """A file that a newer one replaced, and when it had been written."""

    path: Path
    written: datetime
    bytes: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """A file that goes, and why."""

    file: Older
    reason: str


def prune(warehouse: Warehouse, market: Market, root: Path, now: datetime, *, dry_run: bool = False) -> list[Deletion]:
    """Delete the older files of a market that its YAML does not want kept; with `dry_run` only say which.

    Current files are never touched, however large they are. Where one is missing or damaged, the newest older file that
    can be read is the last good copy, and stays.
    """
    going: list[Deletion] = []
    files = current_files(warehouse, market)
    for export in market.exports.values():
        going += _going(export, root, [file for file in files if file.export == export.name], now)
    if not dry_run:
        for each in going:
            _delete(root, each, now)
    return going


def _going(export: Export, root: Path, files: Sequence[Exported], now: datetime) -> list[Deletion]:
    going: list[Deletion] = []
    staying: list[Older] = []
    taken = 0
    for file in files:
        older = older_files(root, file.path)
        good = _last_good(root, file, older) if older else None
        for number, each in enumerate(older, start=2):
            if each == good:
                taken += each.bytes
            elif reason := _reason(export, number, each, now):
                going.append(Deletion(each, reason))
            else:
                staying.append(each)
                taken += each.bytes
        taken += file.bytes
    return going + list(_over_budget(export, staying, taken))


def _reason(export: Export, number: int, file: Older, now: datetime) -> str:
    if number > export.keep.newest:
        return f"newest: {export.keep.newest}"
    if export.keep.days is not None and file.written < now - timedelta(days=export.keep.days):
        return f"days: {export.keep.days}"
    return ""


def _over_budget(export: Export, staying: Sequence[Older], taken: int) -> Iterator[Deletion]:
    if export.keep.megabytes is None:
        return
    for each in sorted(staying, key=lambda file: file.written):
        if taken <= export.keep.megabytes * MEGABYTE:
            return
        taken -= each.bytes
        yield Deletion(each, f"megabytes: {export.keep.megabytes}")


def older_files(root: Path, path: str) -> list[Older]:
    """What is kept of a file that newer ones replaced, newest first."""
    current = older_folder(root) / path
    ending = ending_of(current)
    stem = current.name.removesuffix(ending)
    found = []
    for each in current.parent.glob("*") if current.parent.is_dir() else ():
        match = STAMPED.fullmatch(each.name.removesuffix(ending)) if each.name.endswith(ending) else None
        if match and match["name"] == stem:
            written = datetime.strptime(match["stamp"], STAMP).replace(tzinfo=UTC)
            found.append(Older(each, written, each.stat().st_size))
    return sorted(found, key=lambda file: file.written, reverse=True)


def _last_good(root: Path, file: Exported, older: Sequence[Older]) -> Older | None:
    """The older file that must stay because nothing else of its series can be relied on."""
    path = root / file.path
    if path.is_file() and sha256_of(path) == file.sha256:
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
    folder = older_folder(root)
    with (folder / RECORD).open("a", newline="", encoding="utf-8") as file:
        name = deletion.file.path.relative_to(folder)
        csv.writer(file).writerow([f"{now:{STAMP}}", name, deletion.file.bytes, deletion.reason])
