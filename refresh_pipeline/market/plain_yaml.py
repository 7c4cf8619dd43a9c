"""YAML that people write, read without surprises: no key twice, no control characters, no end of aliases or levels.

What a document means is its reader's part.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

# Nodes of a document with its aliases written out: a universe of 50,000 instruments has half a million.
MOST_NODES = 1_000_000
# Levels within each other: far above what any of our files has, and far below what a parser in C has stack for.
MOST_LEVELS = 100
TOO_DEEP = "found lists or mappings within each other too deeply; allowed: ten levels"


# The parser in C is several times as fast; a PyYAML that was built without it has the other one alone.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """A document is no YAML, or not plain; the message says where and why, in printable words."""


def plain_yaml(text: str) -> Any:
    """The data of one YAML document; None where it is empty.

    >>> plain_yaml("a: [1, b]")
    {'a': [1, 'b']}

    Raises:
        YamlError: it cannot be read, or is not plain.
    """
    try:
        _require_flat(text)
        loader = _LoaderWithoutRepeats(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_plain(node)
        return loader.construct_document(node)
    except _TooDeepError:
        raise YamlError(TOO_DEEP) from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise YamlError(f"not readable as YAML: {printable(' '.join(str(error).split()))}") from error


def line_of(text: str, path: Sequence[str]) -> int | None:
    r"""The line, counted from 1, of the last part of a path that is there; None where the first is not.

    Args:
        text: a document that `plain_yaml` reads.
        path: keys, and numbers of items as text.

    >>> line_of("a: 1\nb:\n  - x\n  - y", ["b", "1"])
    4
    """
    node, line = yaml.compose(text, Loader=Loader), None
    for part in path:
        items: list[tuple[Any, Any]] = []
        if isinstance(node, yaml.MappingNode):
            items = [(key, value) for key, value in node.value if getattr(key, "value", None) == part]
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal():
            items = [(value, value) for value in node.value[int(part) :][:1]]
        if not items:
            break
        [(key, node), *_] = items
        line = key.start_mark.line + 1
    return line


def _require_flat(text: str) -> None:
    levels = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            levels += 1
            if levels > MOST_LEVELS:
                raise _TooDeepError
        elif isinstance(event, yaml.CollectionEndEvent):
            levels -= 1


def _require_plain(root: yaml.Node) -> None:
    """Raise ValueError for control characters, and for a document that aliases make too large or endless."""
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        # Until it is counted, a node that holds itself is endless.
        sizes[id(node)] = MOST_NODES
        if isinstance(node, yaml.ScalarNode):
            if printable(node.value) != node.value:
                raise _unprintable(node)
            size = 1
        else:
            # Text may have line ends and tabs; a name has none.
            for name in (item[0] for item in node.value if isinstance(item, tuple)):
                if isinstance(name, yaml.ScalarNode) and not name.value.isprintable():
                    raise _unprintable(name)
            size = 1 + sum(
                size_of(part) for item in node.value for part in (item if isinstance(item, tuple) else (item,))
            )
        if size >= MOST_NODES:
            raise ValueError(f"line {node.start_mark.line + 1}: aliases that repeat too much; allowed: no repetition")
        sizes[id(node)] = size
        return size

    size_of(root)


def _unprintable(node: yaml.Node) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: a control character; allowed: printable text")


def printable(text: str) -> str:
    """A text with control characters and halves of characters written out; line ends and tabs stay.

    >>> printable(f"a{chr(7)}b") == f"a{chr(92)}x07b"
    True
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class _TooDeepError(Exception):
    """Lists or mappings stand within each other too deeply."""


class _LoaderWithoutRepeats(Loader):
    """YAML as it is safe, minus its habit of letting the last of several equal keys win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if doubles := repeated(names):
            raise yaml.constructor.ConstructorError(
                None, None, f"found {', '.join(doubles)} more than once; allowed: each key once", node.start_mark
            )
        return super().construct_mapping(node, deep)


def repeated(values: Iterable[object]) -> list[str]:
    """What is there more than once; thousands of instruments are looked through at once."""
    return sorted(value for value, count in Counter(map(str, values)).items() if count > 1)
