"""The command for files of candles that somebody else writes: `refresh files inspect`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refresh_pipeline.cli.console import print_line, print_verbatim
from refresh_pipeline.cli.options import SOME_FAILED, in_words, wrong_requests


def inspect(
    path: Annotated[str, typer.Argument(help="A CSV or Parquet file, packed or not.", show_default=False)],
    *,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="An option below `source:`, for instance preset=mt4 or time='day first'."),
    ] = None,
) -> None:
    """Look at a file of candles and print the YAML of a market that reads it."""
    with wrong_requests():
        given = dict(_option(text) for text in option or ())
        file = Path(path).expanduser()
        if not file.is_file():
            raise ValueError(f"{path}: expected a file, found none")
    from refresh_pipeline.sources import SourceError
    from refresh_pipeline.sources.file_inspection import inspect_file

    with wrong_requests(), in_words((SourceError, OSError), SOME_FAILED):
        found = inspect_file(file, given)
    for fact in found.facts:
        print_line(f"# {fact}")
    print_verbatim(found.yaml(file.absolute().parent).rstrip())


def _option(text: str) -> tuple[str, Any]:
    import yaml

    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError(f"--option: found {text!r}; allowed: a name and a value, for instance preset=mt4")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--option {name}: found {value!r}; allowed: a value as in the YAML") from error
