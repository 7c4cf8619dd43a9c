"""Content hashes as destinations compute them."""

import hashlib
from pathlib import Path

DROPBOX_BLOCK_BYTES = 4 * 1024 * 1024


def dropbox_hash_of(path: Path) -> str:
    """Dropbox's content hash of a file in hex, read in pieces.

    SHA-256 over the SHA-256 digests of each block of 4 MiB. Source: dropbox.com/developers/reference/content-hash.

    Raises:
        OSError: it cannot be read.
    """
    overall = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(DROPBOX_BLOCK_BYTES):
            overall.update(hashlib.sha256(block).digest())
    return overall.hexdigest()
