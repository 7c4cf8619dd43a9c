"""How the manual reads: short sentences, and error messages that the package really has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "sources").glob("*.md")),
]
LONGEST = 30
TROUBLESHOOTING = DOCS / "troubleshooting.md"


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page outside code blocks, tables and headings."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^(\||#|!\[).*$", "", prose, flags=re.MULTILINE)
    # An address, and a span of code, are one word.
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", prose))
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d+\. )", prose):
        yield from (" ".join(sentence.split()) for sentence in re.split(r"(?<=[.!?])\s+", paragraph))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_sentence_is_long(page: Path) -> None:
    long = [each for each in sentences(page.read_text(encoding="utf-8")) if len(each.split()) > LONGEST]
    assert long == []


def test_no_page_holds_both_sides_of_a_conflict() -> None:
    pages = [REPOSITORY / "CHANGELOG.md", *PAGES, *(DOCS / "decisions").glob("*.md")]
    assert [page.name for page in pages if re.search(r"^(<{7}|>{7}) ", page.read_text(encoding="utf-8"), re.M)] == []


def literals() -> str:
    """All texts of the package, a line each, with a null character where a value is put in."""
    found = []
    for module in sorted((REPOSITORY / "refresh_pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_message_in_troubleshooting_is_one_of_the_package() -> None:
    real = literals()
    headings = re.findall(r"^### `(.*)`$", TROUBLESHOOTING.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(headings) > 20
    parts = [part.strip() for heading in headings for part in heading.split("…")]
    assert [part for part in parts if part and part not in real] == []


@pytest.mark.parametrize("page", [REPOSITORY / "CONTRIBUTING.md", DOCS / "architecture.md"], ids=lambda path: path.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", page.read_text(encoding="utf-8"))
    roots = (REPOSITORY, REPOSITORY / "refresh_pipeline", REPOSITORY / "refresh_pipeline_tests")
    assert len(named) > 10
    assert [
        path for path in named if path != "bench-results/" and not any((root / path).exists() for root in roots)
    ] == []


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda path: path.stem)
def test_every_module_that_a_decision_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page.read_text(encoding="utf-8"))
    roots = (REPOSITORY, REPOSITORY / "refresh_pipeline", REPOSITORY / "refresh_pipeline_tests")
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []
