"""YAML read strictly: no repeated keys, no aliases that expand exponentially, dates as text."""

from typing import Any

import yaml

_NODES = 100_000
"""Values that a document with aliases may have once they are expanded."""
_TAG = "tag:yaml.org,2002:"


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses what would be read differently from how it looks."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.nodes = 0  # read so far, with aliases expanded
        self.sizes: dict[str | None, int] = {}  # the same of each anchor
        self.unfinished: list[str | None] = []  # anchors of what is being read

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count what aliases expand to, because nested ones grow exponentially; refuse one of what it is in."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.nodes += self.sizes.get(event.anchor, 1)
            if self.nodes > _NODES or event.anchor in self.unfinished:
                itself = event.anchor in self.unfinished
                fault = (
                    "has an alias of itself" if itself else f"has aliases that expand to more than {_NODES:,} values"
                )
                mark: Any = event.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"it {fault}", mark)
            return super().compose_node(parent, index)
        self.unfinished.append(event.anchor)
        before = self.nodes
        self.nodes += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.sizes[self.unfinished.pop()] = self.nodes - before

    def construct_yaml_int(self, node: Any) -> Any:
        """Refuse integers that no message could print; those of base 16 and 60 have no limit of digits."""
        value = super().construct_yaml_int(node)
        if value.bit_length() > 1024:
            raise yaml.constructor.ConstructorError(
                None, None, "it has a number of thousands of digits", node.start_mark
            )
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse repeated keys, of which the last would silently win, and keys that are numbers, booleans or null."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag not in (_TAG + "merge", _TAG + "str"):
                what = key.tag.rpartition(":")[2].rpartition("!")[2]
                fault = f"it has {key.value!r} as a key, which YAML reads as {what}; put it in quotes or correct it"
                raise yaml.constructor.ConstructorError(None, None, fault, key.start_mark)
            if isinstance(key.value, str) and key.value in seen and key.tag != _TAG + "merge":
                raise yaml.constructor.ConstructorError(None, None, f"it repeats the key {key.value!r}", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.add_constructor(_TAG + "int", _StrictLoader.construct_yaml_int)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML document.

    Raises:
        ValueError: the text is not valid YAML; the message names the line where there is one.
    """
    try:
        return yaml.load(text, _StrictLoader)  # a subclass of SafeLoader
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}," if mark else ""
        raise ValueError(f"{where} is not valid YAML: {getattr(error, 'problem', None) or error}".strip()) from None
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"is not valid YAML: {error}") from None
