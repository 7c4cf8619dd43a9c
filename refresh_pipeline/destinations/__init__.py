"""Where it goes: files on disk, a folder, Dropbox, S3, Redis. One file per destination; those for files behind one
protocol.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class DestinationError(Exception):
    """A file that did not arrive: what was wanted, what was received, what to do."""

    # Whether trying again could help; decided here, once, at the edge.
    transient: bool = False
    # Whether whatever is sent next would meet the same: refused access, a request for silence.
    ends_all: bool = False
    # Whether nobody answered; several of these in a row are an outage.
    is_silence: bool = False


class PermanentUploadError(DestinationError):
    """Trying again will not help: revoked access, no space, a refused path."""


class TransientUploadError(DestinationError):
    """Trying again may help: a limit, an outage, a dropped connection."""

    transient = True


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A local file, and the path under the destination's root where it belongs ('crypto/BTC-USDT_H1.csv').

    `known_hash` is the hash that the destination reported when it last got this same content, if it did: some stores
    compute theirs in a way that only they know.
    """

    path: Path
    remote: str
    known_hash: str = ""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of one file.

    `content_hash` is the destination's own (its name in `hash_name`), as the destination reported it after the upload;
    `skipped` says that it held the same content already.
    """

    file: Outgoing
    url: str
    bytes: int = 0
    content_hash: str = ""
    skipped: bool = False
    error: DestinationError | None = None


class Destination(Protocol):
    """A place files are uploaded to, as the pipeline sees it."""

    # Shown to people; holds no secret.
    url: str
    # How content is told apart there: "sha256", or "dropbox" for its hash of 4 MiB blocks.
    hash_name: str

    def upload(self, files: Sequence[Outgoing]) -> Iterator[Uploaded]:
        """Bring each file there unless it is there already; one answer a file, failures included."""
        ...

    def hashes(self, remotes: Sequence[str]) -> dict[str, str]:
        """The content hash of each path that exists there, asked anew.

        Raises:
            DestinationError: the destination could not be asked.
        """
        ...
