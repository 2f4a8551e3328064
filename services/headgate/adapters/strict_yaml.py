"""YAML as strict as a config file deserves: plain data only, no key twice, every value knows its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

_TAG = "tag:yaml.org,2002:"


class YamlError(Exception):
    """The text is not acceptable; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a date stays the text that was written."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text: its data, and the lines on which they stand."""

    data: object
    root: yaml.Node | None

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line of the key or item at `path`, or of the nearest parent there is; 1 for the document."""
        node, line = self.root, 1
        for step in path:
            found = _child(node, step)
            if found is None:
                continue
            node, line = found
        return line


def parse(text: str) -> Document:
    """The one document in `text`; YamlError when it is not plain, unambiguous YAML."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"not valid YAML: {error.problem or error.context}"
        raise YamlError(mark.line + 1 if mark else 1, problem) from None
    except yaml.YAMLError:
        raise YamlError(1, "not valid YAML: it contains characters that are not allowed") from None
    return Document(None if root is None else _Builder().build(root), root)


class _Builder:
    """Turns nodes into data; an alias gives the same object again, never a loop."""

    def __init__(self) -> None:
        self._done: dict[int, object] = {}
        self._open: set[int] = set()
        self._constructor = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node) -> object:
        if id(node) in self._open:
            raise YamlError(_line(node), "an alias must not contain itself")
        if id(node) not in self._done:
            self._open.add(id(node))
            self._done[id(node)] = self._fresh(node)
            self._open.discard(id(node))
        return self._done[id(node)]

    def _fresh(self, node: yaml.Node) -> object:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.build(item) for item in node.value]
        try:
            if isinstance(node, yaml.ScalarNode):
                value: object = self._constructor.construct_object(node)
                return value
        except (yaml.YAMLError, ValueError):
            pass
        raise YamlError(_line(node), f"the tag {node.tag} is not allowed here")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, object]:
        data: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in data:
                raise YamlError(_line(key_node), f"the key {key!r} stands here twice")
            data[key] = self.build(value_node)
        return data


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(_line(node), "a key must be plain text")
    return str(node.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value, _line(key)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], _line(node.value[step])
    return None
