"""The command `settings`: every setting, its value, and the place that it comes from."""

import json
from dataclasses import asdict
from pathlib import Path

from refresh_pipeline.cli.console import grid, out, print_line, print_table, print_warning
from refresh_pipeline.cli.options import DataDirOption, JsonOption, wrong_requests


def settings(*, as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show every setting with its place: environment, a file or default. Secrets are masked."""
    from refresh_pipeline.redaction import clean
    from refresh_pipeline.settings import DEFAULT, load_settings, setting_faults, setting_origins, settings_files

    with wrong_requests():
        origins = setting_origins(load_settings(data_dir=data_dir))
        sentences = setting_faults()
    for sentence in sentences:
        print_warning(sentence)
    if as_json:
        out.print_json(json.dumps([asdict(origin) for origin in origins]), highlight=False)
        return
    table = grid("setting", "value", "from", wrapped=("value", "from"))
    for origin in origins:
        if origin.value:
            table.add_row(origin.name, clean(origin.value), origin.place)
    print_table(out, table)
    out.print()
    unset = [origin.name for origin in origins if not origin.value and origin.place == DEFAULT]
    out.print(f"Not set ({len(unset)}): {', '.join(unset)}", highlight=False)
    print_line(f"Read in this order: environment, {', '.join(str(file) for file in _by_priority(settings_files()))}")


def _by_priority(files: list[Path]) -> list[Path]:
    """The order in which a file wins: of two .env files the later one."""
    config, *env_files = files
    return [config, *reversed(env_files)]
