"""Export files with the same content under different names: found by hash, and on request made one file, or removed."""

import os
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from refresh_pipeline.files.atomic import PART, sha256_of


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Files with one content, by name; `links` are those that are one file on disk with the first already."""

    sha256: str
    bytes: int
    paths: Sequence[Path]
    links: int

    @property
    def spare_bytes(self) -> int:
        """What the disk would have more if they were one file."""
        return self.bytes * (len(self.paths) - 1 - self.links)


def find_duplicates(*roots: Path) -> list[Duplicates]:
    """Every content that more than one file has, below these folders; what takes most room first.

    Only files of one size are read: most have no twin.
    """
    by_size: dict[int, list[Path]] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.name.endswith(PART) and path.stat().st_size:
                by_size.setdefault(path.stat().st_size, []).append(path)
    found = []
    for size, paths in by_size.items():
        by_hash: dict[str, list[Path]] = {}
        for path in paths if len(paths) > 1 else ():
            by_hash.setdefault(sha256_of(path), []).append(path)
        found += [_group(sha256, size, twins) for sha256, twins in by_hash.items() if len(twins) > 1]
    return sorted(found, key=lambda group: (-group.spare_bytes, group.paths))


def _group(sha256: str, size: int, paths: Sequence[Path]) -> Duplicates:
    inodes = [(path.stat().st_dev, path.stat().st_ino) for path in paths]
    return Duplicates(sha256, size, paths, len(inodes) - len(set(inodes)))


def link(group: Duplicates) -> int:
    """Let all of them be one file on disk under several names; gives how many were made so.

    A file that is exported anew takes its own name's place alone.

    Raises:
        OSError: the disk has no second names.
    """
    first, *others = group.paths
    linked = 0
    for path in others:
        if not path.samefile(first):
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
            os.link(first, part)
            part.replace(path)
            linked += 1
    return linked


def remove(group: Duplicates, needed: Collection[Path]) -> list[Path]:
    """Delete all but one of them, none that is needed; gives what was deleted."""
    kept = next((path for path in group.paths if path in needed), group.paths[0])
    going = [path for path in group.paths if path != kept and path not in needed]
    for path in going:
        path.unlink()
    return going
