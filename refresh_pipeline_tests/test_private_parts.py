"""Every private part of Dagster that the package uses is named in pyproject.toml, and no other."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "refresh_pipeline").rglob("*.py"))
# Private attributes that are Python's.
NOT_DAGSTERS = {"_exit", "_asdict"}


def named_in_pyproject() -> dict[str, set[str]]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["refresh_pipeline"]["dagster-private"]
    return {module: set(names) for module, names in table.items()}


def is_private(module: str) -> bool:
    library, *path = module.split(".")
    return library.startswith("dagster") and any(part.startswith("_") for part in path)


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Modules and names that are imported, or written as the text of a module's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isascii():
            yield node.value, ""


def modules_in_use() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        for module, name in imported(ast.parse(source.read_text())):
            if is_private(module) and all(part.isidentifier() for part in module.split(".")):
                found.setdefault(module, set()).update([name] if name else [])
    for section in yaml.safe_load((ROOT / "dagster.yaml").read_text()).values():
        if isinstance(section, dict) and is_private(section.get("module", "")):
            found.setdefault(section["module"], set()).add(section["class"])
    return found


def attributes_in_use() -> set[str]:
    """Private attributes that a module uses and that no module of the package defines."""
    used, defined = set[str](), set[str]()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                (used if isinstance(node.ctx, ast.Load) else defined).add(node.attr)
                # Dagster's attribute is assigned to as well; an assignment to `self` defines one of ours.
                if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) != "self":
                    defined.discard(node.attr)
                    used.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.AnnAssign):
                defined.add(node.name if not isinstance(node, ast.AnnAssign) else ast.unparse(node.target))
    overridden = {"_connect", "_initdb"}
    return used - (defined - overridden) - NOT_DAGSTERS


def test_every_private_module_of_dagster_is_named_in_pyproject():
    named = named_in_pyproject()
    del named["attributes"]
    assert modules_in_use() == named


def test_every_private_attribute_of_dagster_is_named_in_pyproject():
    if (found := attributes_in_use()) != (named := named_in_pyproject()["attributes"]):
        pytest.fail(f"not named in pyproject.toml: {sorted(found - named)}; not used: {sorted(named - found)}")
