"""Whatever a user can set, type or read is explained somewhere: settings, commands, options, tables."""

import re
from pathlib import Path

import click
import pytest
import typer
from pydantic import AliasChoices

from refresh_pipeline.cli.app import app
from refresh_pipeline.settings import Settings, shipped
from refresh_pipeline.warehouse.schema import Table

REPOSITORY = Path(__file__).resolve().parents[1]
# Not read by us, but worth a line where people look for settings.
DAGSTERS_OWN = {"DAGSTER_HOME"}
COMMANDS = "docs/commands.md"


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def settings_names() -> list[str]:
    names = []
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        names.append(str(alias.choices[0]) if isinstance(alias, AliasChoices) else str(alias))
    return names


def commands() -> dict[str, list[str]]:
    """Every command and the long names of its options."""
    return {name: [max(each.opts, key=len) for each in command.params] for name, command in sorted(leaves().items())}


def leaves() -> dict[str, click.Command]:
    """Every command by its whole name, those of groups included."""
    found: dict[str, click.Command] = {}
    for name, command in getattr(typer.main.get_command(app), "commands", {}).items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {each}": leaf for each, leaf in inner.items()}
    return found


def explained_settings() -> dict[str, str]:
    """The settings of .env.example and the comment lines right above each."""
    found, comment = {}, ""
    for line in text_of(".env.example").splitlines():
        setting = re.fullmatch(r"#?\s?([A-Z][A-Z0-9_]+)=.*", line)
        if setting:
            found[setting[1]] = comment
        comment = f"{comment} {line.lstrip('# ')}".strip() if line.startswith("#") and not setting else ""
    return found


@pytest.mark.parametrize("name", settings_names())
def test_every_setting_is_explained_in_the_example(name: str) -> None:
    assert len(explained_settings().get(name, "").split()) >= 3, f"{name} has no sentence above it in .env.example"


@pytest.mark.parametrize("name", [*settings_names(), *sorted(DAGSTERS_OWN)])
def test_every_setting_is_in_the_manual(name: str) -> None:
    assert f"`{name}`" in text_of("docs/operations.md")


def test_the_example_explains_no_setting_that_does_nothing() -> None:
    assert set(explained_settings()) - DAGSTERS_OWN == set(settings_names())


@pytest.mark.parametrize("command", commands())
def test_every_command_is_in_the_manual(command: str) -> None:
    assert f"`refresh {command}`" in text_of(COMMANDS)


@pytest.mark.parametrize("option", sorted({option for options in commands().values() for option in options}))
def test_every_option_is_in_the_manual(option: str) -> None:
    assert re.search(rf"{re.escape(option)}\b", text_of(COMMANDS))


@pytest.mark.parametrize(("command", "option"), [(name, each) for name, all_ in commands().items() for each in all_])
def test_every_option_is_explained_beside_its_command(command: str, option: str) -> None:
    section = text_of(COMMANDS).split(f"\n## `refresh {command.partition(' ')[0]}`\n")[1].split("\n## ")[0]
    # Which takes the options of `refresh once`.
    section += once() if command == "backfill" else ""
    assert re.search(rf"{re.escape(option)}\b", section)


def once() -> str:
    return text_of(COMMANDS).split("\n## `refresh once`\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(("command", "option"), [(name, each) for name, all_ in commands().items() for each in all_])
def test_every_option_says_in_the_help_what_it_does(command: str, option: str) -> None:
    parameters = leaves()[command].params
    parameter = next(each for each in parameters if option in each.opts)
    assert getattr(parameter, "help", None)


@pytest.mark.parametrize("table", [table.value for table in Table])
def test_every_table_is_explained(table: str) -> None:
    assert re.search(rf"`[\w.<>]*{table}`", text_of("docs/data.md"))


@pytest.mark.parametrize("target", ["refresh", "test", "up", "check", "bench", "bench-minute", "soak"])
def test_every_target_that_the_manual_names_is_there(target: str) -> None:
    assert f"make {target}" in text_of("docs/install.md")
    assert re.search(rf"^{target}:", text_of("Makefile"), flags=re.MULTILINE)


def test_the_readme_is_one_screen_with_two_pictures() -> None:
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= 80
    pictures = [REPOSITORY / path for path in re.findall(r"!\[[^\]]+\]\((.*?)\)", readme)]
    assert len(pictures) == 2
    assert all(0 < picture.stat().st_size < 150_000 for picture in pictures)


def test_the_readme_opens_with_the_two_commands() -> None:
    opening = text_of("README.md")[:1500]
    assert opening.index("make refresh") < opening.index("make test")


@pytest.mark.parametrize("name", ["dagster.yaml", "dagster-cluster.yaml", "workspace.yaml"])
def test_dagsters_files_are_there_to_ship(name: str) -> None:
    assert shipped(name).is_file()
