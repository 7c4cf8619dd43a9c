"""Where the command writes: standard output for results, standard error for messages and the log."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from refresh_pipeline.redaction import clean, redact_log


class Terminal(Console):
    """A console whose sentences break at words in a narrow window; a path that is longer than a line stays whole."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does. A text with `soft_wrap` is one line in a file, and lines of whole words on a terminal."""
        if self.is_terminal and options.get("soft_wrap"):
            markup, highlight = options.get("markup"), options.get("highlight")
            texts = [
                each if isinstance(each, Text) else self.render_str(str(each), markup=markup, highlight=highlight)
                for each in objects
            ]
            objects = tuple(in_lines(text, self.width) for text in texts)
        super().print(*objects, **options)


def in_lines(text: Text, width: int) -> Text:
    """The text with a line break before each word that would not end within the width, in columns.

    >>> in_lines(Text("one word and averylongword"), 8).plain.splitlines()
    ['one word', 'and', 'averylongword']
    """
    breaks, used = [], 0
    for word in re.finditer(r"\S+\s*", text.plain):
        if used and used + cell_len(word[0].rstrip()) > width:
            breaks.append(word.start())
            used = 0
        used = 0 if "\n" in word[0] else used + cell_len(word[0])
    lines = text.divide(breaks)
    for line in lines[:-1]:
        line.rstrip()
    return Text("\n").join(lines)


# Into a file or a pipe a table keeps its shape, unless COLUMNS says otherwise; on a terminal it keeps to the window.
out = Terminal(width=None if sys.stdout.isatty() else shutil.get_terminal_size((160, 40)).columns)
err = Terminal(stderr=True)


def program() -> str:
    """The command as it can be typed here: its path where `refresh` is not on the PATH, as after `make refresh`."""
    started = sys.argv[0]
    return started if os.path.basename(started) == "refresh" and shutil.which("refresh") is None else "refresh"


def print_line(text: str) -> None:
    """Print a sentence of the result: no markup, no colours, on a terminal broken at words."""
    out.print(clean(text), markup=False, highlight=False, soft_wrap=True)


def print_verbatim(text: str) -> None:
    """Print a text for programs as it is, without any line break."""
    out.file.write(clean(text) + "\n")


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "fault"), counted(1200, "fault")
    ('1 fault', '1,200 faults')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def print_error(text: str) -> None:
    """Print an error, in red."""
    err.print(clean(text), style="red", markup=False, highlight=False, soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning, in yellow."""
    err.print(clean(text), style="yellow", markup=False, highlight=False, soft_wrap=True)


def grid(*names: str, right: Collection[str] = (), wrapped: Collection[str] = (), title: str | None = None) -> Grid:
    """A table whose columns stand one blank apart: 80 columns are few.

    Args:
        names: the headings.
        right: the columns of numbers.
        wrapped: the columns that take several lines where the window is narrow.
        title: a line above the table.
    """
    table = Grid(
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
        title=title,
        title_justify="left",
        title_style="bold",
    )
    for name in names:
        justify = "right" if name in right else "left"
        table.add_column(name, justify=justify, no_wrap=name not in wrapped, overflow="fold")
    return table


def print_table(console: Console, table: Grid) -> None:
    """Print a table. In a window that is too narrow the terminal breaks its lines, and no figure is cut."""
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    console.print(table, crop=False)


def share_text(share: float | None) -> Text:
    """A share in percent that shows 100 only where nothing is missing.

    >>> str(share_text(1.0)), str(share_text(0.99999)), str(share_text(None))
    ('100 %', '99.99 %', '-')
    """
    if share is None:
        return Text("-", style="yellow")
    text = "100 %" if share == 1 else f"{min(share, 0.9999):.2%}".replace("%", " %")
    return Text(text, style="green" if share == 1 else "yellow")


@contextmanager
def terminal() -> Iterator[Console]:
    """A console that reaches the terminal during Dagster's steps; `err` where standard error is no terminal.

    Dagster redirects file descriptor 2 into a file during each step: the console writes to a duplicate taken before.
    """
    if not sys.stderr.isatty():
        yield err
        return
    with open(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as stream:
        yield Terminal(file=stream)


@contextmanager
def log_on(console: Console, verbose: int) -> Iterator[None]:
    """Show the package's log while the block runs: warnings; with -v also information, with -vv everything."""
    from rich.logging import RichHandler

    redact_log()
    logger = logging.getLogger("refresh_pipeline")
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    handler = RichHandler(console=console, show_path=False, omit_repeated_times=False)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
