"""A file of text as DuckDB can read it: unpacked, in UTF-8, with one kind of line end. What its rows mean is not ours.

A file that is all this already is read where it lies; of any other a copy is made, once for each reading.
"""

import codecs
import glob
import gzip
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import duckdb

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.sources import PermanentError

# In bytes: what is looked at, at either end of a file.
SAMPLE = 1 << 16
# In bytes: what a compressed file may become.
LARGEST = 8 << 30
PACKED = (".gz", ".zip", ".zst")
# The byte order marks, longest first: that of UTF-32 begins like that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"),
)  # fmt: skip
# Of what is no UTF-8, Windows' code page of Western Europe: digits and marks of numbers are the same in all of these.
FALLBACK = "cp1252"
# A character that no file holds, so that DuckDB splits no line.
WHOLE_LINES = (
    "auto_detect=false, header=false, delim='\x01', quote='', escape='', columns={'line': 'varchar'}, "
    "compression='zstd'"
)


@dataclass(frozen=True, slots=True)
class Text:
    """A file's text.

    Attributes:
        path: of the text, in UTF-8 with one kind of line end.
        name: the path that messages name.
        lines: the first lines.
        last_lines: whole lines from the end, empty where the first lines are all.
        encoding: of the file itself.
    """

    path: Path
    name: str
    lines: tuple[str, ...]
    last_lines: tuple[str, ...]
    encoding: str


@contextmanager
def open_text(path: Path, encoding: str | None, folder: Path, *, copy: bool = False) -> Iterator[Text]:
    """The text of a file, plain or packed as .gz, .zip or .zst.

    Args:
        path: the file.
        encoding: of its text; guessed if None.
        folder: where a copy may lie while the text is in use.
        copy: read a copy with one kind of line end in any case.

    Raises:
        PermanentError: an archive that cannot be unpacked, or that holds several files.
        UnicodeDecodeError: the text is not in that encoding.
        OSError: the file cannot be read.
    """
    unpacked, plain = folder / "unpacked", folder / "plain.csv"
    try:
        source = _unpacked(path, unpacked) if path.suffix.lower() in PACKED else path
        first, last = _ends(source)
        encoding = encoding or _encoding(first)
        if copy or encoding not in ("utf-8", "utf-8-sig") or _has_two_line_ends(first, last):
            _transcode(source, encoding, plain)
            source, (first, last) = plain, _ends(plain)
        known = "utf-8-sig" if source is plain or encoding == "utf-8-sig" else encoding
        lines = _decoded(first, known).splitlines()
        yield Text(source, str(path), tuple(lines), tuple(_decoded(last, known).splitlines()[1:]), encoding)
    finally:
        for used in (unpacked, plain):
            used.unlink(missing_ok=True)


def without_first_lines(text: Text, count: int, folder: Path) -> Path:
    """A copy of the text without so many of its first lines, with one kind of line end."""
    shortened = folder / "rows.csv"
    _transcode(text.path, "utf-8-sig", shortened, skip=count)
    return shortened


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        first = file.read(SAMPLE)
        size = path.stat().st_size
        if size <= SAMPLE:
            return first, b""
        file.seek(max(size - SAMPLE, SAMPLE))
        return first[: first.rfind(b"\n") + 1] or first, file.read(SAMPLE)


def _encoding(first: bytes) -> str:
    for mark, name in MARKS:
        if first.startswith(mark):
            return name
    # In a text of Latin letters every other byte of UTF-16 is zero.
    for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(first) > 3 and first[offset::2].count(0) > len(first) * 0.4:
            return name
    lines = first.splitlines()
    damaged = [not _is_utf8(line) for line in lines]
    # A damaged row is that row's fault; the header, or most rows, are the file's.
    is_other = bool(damaged) and (damaged[0] or sum(damaged) > len(lines) / 2)
    return FALLBACK if is_other and _is_text(first) else "utf-8"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(first: bytes) -> bool:
    """Whether most bytes are ASCII's printable ones: other files are no text in any code page."""
    printable = sum(first.count(byte) for byte in (*range(32, 127), 9, 10, 13))
    return printable > len(first) * 0.7


def _decoded(part: bytes, encoding: str) -> str:
    # The sample may end, or begin, inside a character; damage in the rows is theirs.
    return part.decode(encoding, errors="replace") if encoding != "utf-8" else _strict_first_line(part)


def _strict_first_line(part: bytes) -> str:
    first = next(iter(part.splitlines()), b"")
    return first.decode() + part[len(first) :].decode(errors="replace")


def _has_two_line_ends(first: bytes, last: bytes) -> bool:
    ends = set()
    for part in (first, last):
        windows, old_mac = part.count(b"\r\n"), part.count(b"\r")
        counts = {"\r\n": windows, "\n": part.count(b"\n") - windows, "\r": old_mac - windows}
        ends |= {end for end, count in counts.items() if count > 0}
    return len(ends) > 1


def _transcode(source: Path, encoding: str, target: Path, skip: int = 0) -> None:
    # A damaged byte of UTF-8 stays one, so that its row alone is refused.
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    with (
        source.open(encoding=encoding, errors=errors, newline=None) as text,
        target.open("w", encoding="utf-8", errors=errors, newline="\n") as copy,
    ):
        for _ in range(skip):
            text.readline()
        shutil.copyfileobj(text, copy, SAMPLE)


def _unpack(packed: IO[bytes] | gzip.GzipFile, target: Path) -> None:
    written = 0
    with target.open("wb") as plain:
        while block := packed.read(SAMPLE * 16):
            written += len(block)
            if written > LARGEST:
                raise PermanentError(f"expected at most {LARGEST >> 30} GB unpacked, found more")
            plain.write(block)


def _unpacked(path: Path, target: Path) -> Path:
    try:
        match path.suffix.lower():
            case ".zst":
                _unpack_zstd(path, target)
            case ".zip":
                _unpack_zip(path, target)
            case _:
                with gzip.open(path) as packed:
                    _unpack(packed, target)
    except (
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        NotImplementedError,
        RuntimeError,
        duckdb.Error,
    ) as error:
        wanted = path.suffix.lower()
        raise PermanentError(f"{path}: expected a {wanted} file, found: {str(error).splitlines()[0]}") from error
    except PermanentError as error:
        raise PermanentError(f"{path}: {error}") from error
    return target


def _unpack_zip(path: Path, target: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [
            each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX")
        ]
        tables = [each for each in members if each.filename.lower().endswith((".csv", ".txt", ".tsv"))] or members
        if len(tables) != 1:
            names = ", ".join(each.filename for each in tables[:5]) or "nothing"
            raise PermanentError(f"expected an archive with one .csv file, found {names}")
        with archive.open(tables[0]) as packed:
            _unpack(packed, target)


def _unpack_zstd(path: Path, target: Path) -> None:
    # Python reads zstd from 3.14 on; DuckDB always does.
    with open_duckdb() as connection:
        scan = f"select line from read_csv($path, {WHOLE_LINES})"
        lines = connection.sql(scan, params={"path": glob.escape(str(path))})
        lines.write_csv(str(target), header=False, sep="\x01", quotechar="", escapechar="")
