"""Uploads into a folder: of this machine, or of another one that is mounted here."""

import errno
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from refresh_pipeline.destinations import (
    DestinationError,
    Outgoing,
    PermanentUploadError,
    TransientUploadError,
    Uploaded,
)
from refresh_pipeline.destinations.parallel import map_in_threads
from refresh_pipeline.destinations.paths import folder_of, under_root, url_under
from refresh_pipeline.files.atomic import replacing, sha256_of, why_not_written
from refresh_pipeline.market.destination_spec import FolderSpec

# What a mounted disk says when its server is away; everything else stays as it is until somebody mends it.
PASSING = {errno.EBUSY, errno.EIO, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESTALE, errno.ETIMEDOUT}

# A disk is waited for most of the time, one that is mounted from elsewhere even more.
# Files and folders are as open as the root is, though everything else that we write is private.
ANYTHING, READ_AND_WRITE = 0o777, 0o666
WORKERS = 8


class FolderDestination:
    """A folder, by its path or its `file:///...` URL; made when the first file arrives.

    Raises:
        WrongDestination: a `file:` URL without an absolute path.
    """

    hash_name = "sha256"

    def __init__(self, where: str | Path) -> None:
        is_url = isinstance(where, str) and where.lower().startswith("file:")
        self.root = folder_of(str(where)) if is_url else Path(where).absolute()
        self.url = self.root.as_uri()

    @classmethod
    def from_spec(cls, spec: FolderSpec, credentials: Mapping[str, str]) -> "FolderDestination":
        """The folder that a spec describes; it needs no credentials."""
        return cls(Path(spec.directory).expanduser())

    def __repr__(self) -> str:
        return f"FolderDestination({self.url!r})"

    def upload(self, files: Sequence[Outgoing]) -> Iterator[Uploaded]:
        """Copy each file there unless the same content is there already; see Destination."""
        return map_in_threads(self._answer, files, WORKERS)

    def hashes(self, remotes: Sequence[str]) -> dict[str, str]:
        """The SHA-256 of each file that is stored, read anew; see Destination."""
        hashes = ((remote, self._hash_of(self.root / under_root(remote))) for remote in remotes)
        return {remote: content_hash for remote, content_hash in hashes if content_hash is not None}

    def _hash_of(self, target: Path) -> str | None:
        try:
            return sha256_of(target) if target.is_file() else None
        except OSError as error:
            raise _refusal(error, f"{target}: not readable: {error.strerror}; check its permissions") from error

    def _answer(self, file: Outgoing) -> Uploaded:
        try:
            return self._bring(file)
        except DestinationError as error:
            return Uploaded(file, url_under(self.url, file.remote), error=error)

    def _bring(self, file: Outgoing) -> Uploaded:
        target = self.root / under_root(file.remote)
        size, wanted = _size_and_hash(file.path)
        skipped = self._hash_of(target) == wanted
        if not skipped:
            _copy(file.path, target, size, wanted, self.root)
        return Uploaded(file, url_under(self.url, file.remote), size, wanted, skipped)


def _size_and_hash(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise PermanentUploadError(f"{path}: nothing to upload: {error.strerror}; export it again") from error


def _copy(source: Path, target: Path, size: int, wanted: str, root: Path) -> None:
    try:
        mode = _mode_below(root, target.parent)
        with replacing(target) as part:
            shutil.copyfile(source, part)
            _verify(part, target, wanted)
            part.chmod(mode & READ_AND_WRITE)
    except OSError as error:
        raise _refusal(error, why_not_written(error, target, size)) from error


def _mode_below(root: Path, folder: Path) -> int:
    """Make the folders from the root down, readable by those who read the root; gives its mode."""
    root.mkdir(parents=True, exist_ok=True)
    mode = root.stat().st_mode & ANYTHING
    for below in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)]:
        if not (root / below).exists():
            (root / below).mkdir(exist_ok=True)
            (root / below).chmod(mode)
    return mode


def _verify(part: Path, target: Path, wanted: str) -> None:
    arrived = sha256_of(part)
    if arrived != wanted:
        raise TransientUploadError(
            f"{target}: arrived changed: wanted SHA-256 {wanted}, received {arrived}; "
            "the file was written while it was copied, or the disk is failing: upload it again"
        )


def _refusal(error: OSError, message: str) -> DestinationError:
    return TransientUploadError(message) if error.errno in PASSING else PermanentUploadError(message)
