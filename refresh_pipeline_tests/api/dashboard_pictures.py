"""Takes the pictures of the dashboard that the manual shows.

Run as `python -m refresh_pipeline_tests.api.dashboard_pictures [folder]`, with Chromium installed; without a folder the
manual's pictures are taken anew.
"""

import io
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from refresh_pipeline_tests.api.dashboard import CLOCK, STUB, Server, Stage, serving
from refresh_pipeline_tests.chromium import Tab, chromium

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
WIDTH, HEIGHT = 1280, 800
COLORS = 64
# Each page: its path, and what holds once it shows what it is for.
PAGES = {
    "overview": ("/", "document.querySelectorAll('.cell').length === 40 && text.includes('demo_refresh')"),
    "series": ("/series/demo/BTC/USD/H1", "document.querySelector('.chart canvas') && text.includes('jaw')"),
    "signals": ("/signals", "text.includes('Coherence') && document.querySelector('.mouth')"),
    "gaps": ("/gaps", "document.querySelector('button.day')"),
    "runs": ("/runs", "document.querySelectorAll('tbody tr').length === 14"),
    "run": ("/runs/5f1c2a34-0000-4d8e-9c1f-000000000003", "text.includes('HTTP 503')"),
    "files": ("/files", "text.includes('demo/')"),
    "sources": ("/sources", "text.includes('fear greed')"),
    "source": ("/sources/fear_greed", "document.querySelector('.plus')"),
    "alerts": ("/alerts", "text.includes('What is wrong')"),
    "settings": ("/settings", "text.includes('demo_refresh') && text.includes('REFRESH_DATA_DIR')"),
    "docs": ("/docs", "text.includes('/api/v1/health')"),
}
# Pages that the manual shows in the dark as well.
DARK = ("overview", "series")


def take(tab: Tab, server: Server, folder: Path, names: Iterable[str]) -> None:
    """Write a picture of each of these pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path, condition = PAGES[name]
        for dark in (False, True) if name in DARK else (False,):
            tab.size(WIDTH, HEIGHT, dark=dark)
            tab.open(f"{server.url}{path}")
            tab.until(f"!document.querySelector('.skeleton') && ({condition})")
            # Two frames later everything is drawn.
            tab.evaluate("new Promise(shown => requestAnimationFrame(() => requestAnimationFrame(shown)))")
            picture = Image.open(io.BytesIO(tab.picture())).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
            picture.save(folder / f"dashboard-{name}{'-dark' if dark else ''}.png", optimize=True)


def main(folder: Path) -> None:
    """Take every picture."""
    with (
        tempfile.TemporaryDirectory() as root,
        serving(Stage.set_up(Path(root) / "stage")) as server,
        chromium() as tab,
    ):
        tab.run_first(CLOCK, STUB)
        take(tab, server, folder, PAGES)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
