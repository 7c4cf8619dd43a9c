"""How to install an optional part of this package, as it is installed here. What needs which part is said elsewhere."""

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "refresh-pipeline"


def install_command(extra: str, constraints: str = "constraints.txt") -> str:
    """The command that installs an extra: the package is on no index, so it names the checkout or the wheel.

    Args:
        extra: its name in pyproject.toml.
        constraints: the file of pinned versions, which counts where it lies in the checkout.
    """
    pip = f"{sys.executable} -m pip install"
    url, editable = _origin()
    # Without a known place the file's name is all that can be said.
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(f"{DISTRIBUTION}.whl")
    pinned = f" -c {path / constraints}" if (path / constraints).is_file() else ""
    return f"{pip}{pinned}{' -e' if editable else ''} '{path}[{extra}]'"


def _origin() -> tuple[str, bool]:
    """Where pip installed this package from, and whether it runs from there."""
    try:
        text = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        text = None
    found = json.loads(text or "{}")
    return str(found.get("url", "")), bool(found.get("dir_info", {}).get("editable"))
