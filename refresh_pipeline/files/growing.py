"""CSV files that grow: new rows are appended in place, and hashes of blocks make an append as cheap as its rows.

The manifest keeps the length and the hashes of a grown file. Bytes beyond that length are those of an append that was
killed before the manifest recorded it: the next append cuts them off first. Which files may grow is decided elsewhere.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

# The last block is hashed anew at every append.
BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blocks:
    """The length of a file in bytes, and the SHA-256 in hex of each of its blocks of 4 MiB.

    >>> Blocks(3, ("aa",)).digest
    'aa'
    """

    bytes: int
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, length: int | None = None) -> Self:
        """The blocks of a file, or of its first `length` bytes, read in pieces.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            size = size if length is None else min(size, length)
            return cls(size, tuple(_hashes(file, 0, size)))

    @classmethod
    def parse(cls, length: int, hashes: str) -> Self:
        """Blocks as a manifest has them: hashes with a space between them."""
        return cls(length, tuple(hashes.split()))

    @property
    def digest(self) -> str:
        """The SHA-256 of the only block, or of the hashes of all blocks behind one another."""
        if len(self.hashes) == 1:
            return self.hashes[0]
        return hashlib.sha256(b"".join(bytes.fromhex(each) for each in self.hashes)).hexdigest()

    def __str__(self) -> str:
        return " ".join(self.hashes)


@dataclass(frozen=True, slots=True)
class Grown:
    """A file after an append: its blocks, and the number of rows that were appended."""

    blocks: Blocks
    rows: int


def grow(path: Path, recorded: Blocks, lines: Sequence[bytes]) -> Grown | None:
    """Append the lines that a file lacks; None where that is impossible, and the file has to be written whole.

    A file that was altered cannot grow, nor one that has another name or is held by another program. The first line
    must not belong before the last block.

    Args:
        path: of a CSV file whose rows begin with their key, in ascending order.
        recorded: the length and the blocks of the file as it was last recorded.
        lines: rows that the file is to end with, oldest first; those that it ends with already are compared.

    Raises:
        OSError: the disk is full, or the file cannot be read.
    """
    try:
        file = path.open("rb+")
    except FileNotFoundError:
        return None
    with file:
        found = os.fstat(file.fileno())
        # Another name of the file, a kept copy or a linked duplicate, must not change with it.
        if found.st_nlink != 1 or found.st_size < recorded.bytes or not recorded.hashes:
            return None
        begin = (len(recorded.hashes) - 1) * BLOCK
        file.seek(begin)
        tail = file.read(recorded.bytes - begin)
        if hashlib.sha256(tail).hexdigest() != recorded.hashes[-1]:
            return None
        missing = _missing(tail, lines)
        if missing is None:
            return None
        if found.st_size > recorded.bytes:
            file.truncate(recorded.bytes)
        if not missing:
            return Grown(recorded, 0)
        _append(file, recorded.bytes, missing)
        length = recorded.bytes + len(missing)
        hashes = (*recorded.hashes[:-1], *_hashes(file, begin, length))
        return Grown(Blocks(length, hashes), missing.count(b"\n"))


def _missing(tail: bytes, lines: Sequence[bytes]) -> bytes | None:
    """What of the lines has to follow the tail; None where the tail ends with other rows."""
    if not lines:
        return b""
    last_line = tail.rfind(b"\n", 0, -1) + 1
    if not tail.endswith(b"\n") or not last_line:
        return None
    key = lines[0].partition(b",")[0]
    if tail[last_line:].partition(b",")[0] < key:
        return b"".join(lines)
    position = tail.find(b"\n" + key + b",") + 1
    text = b"".join(lines)
    if not position or not text.startswith(tail[position:]):
        return None
    return text[len(tail) - position :]


def _append(file: BinaryIO, at: int, more: bytes) -> None:
    try:
        file.seek(at)
        file.write(more)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        # The file as it was recorded, for whoever reads it.
        file.truncate(at)
        raise


def _hashes(file: BinaryIO, begin: int, end: int) -> Iterator[str]:
    file.seek(begin)
    while begin < end or begin == 0:
        block = file.read(min(BLOCK, end - begin))
        yield hashlib.sha256(block).hexdigest()
        if not block:
            return
        begin += len(block)
