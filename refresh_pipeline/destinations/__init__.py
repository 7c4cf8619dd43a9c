"""The destinations of files and candles: a folder, Dropbox, an object store, Redis.

One module per destination; those for files share one protocol. Which one is meant is decided in `registry`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from refresh_pipeline.redaction import clean


class DestinationError(Exception):
    """A file did not arrive; the message names what was wanted, what was received and what to do."""

    # Whether a retry could help; decided once, at the edge.
    transient: bool = False
    # Whether every further request would fail alike: refused access, a rate limit.
    ends_all: bool = False
    # Whether no answer came; several of these in a row are an outage.
    is_silence: bool = False

    def __str__(self) -> str:
        return clean(super().__str__())


class PermanentUploadError(DestinationError):
    """A retry does not help: revoked access, no space, a refused path."""


class TransientUploadError(DestinationError):
    """A retry may help: a limit, an outage, a dropped connection."""

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
    """The result of one file.

    `content_hash` is the hash that the destination reported, of the kind `hash_name`; `skipped` means that it held the
    same content before.
    """

    file: Outgoing
    url: str
    bytes: int = 0
    content_hash: str = ""
    skipped: bool = False
    error: DestinationError | None = None


class Destination(Protocol):
    """A destination for files, as the pipeline sees it."""

    # Shown to people; holds no secret.
    url: str
    # The kind of its content hash: "sha256", "md5", or "dropbox" for the hash of 4 MiB blocks.
    hash_name: str

    def upload(self, files: Sequence[Outgoing]) -> Iterator[Uploaded]:
        """Upload each file unless the same content is there; one result per file, failures included."""
        ...

    def hashes(self, remotes: Sequence[str]) -> dict[str, str]:
        """The content hash of each path that exists at the destination, read anew.

        Raises:
            DestinationError: the destination could not be asked.
        """
        ...
