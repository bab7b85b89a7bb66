"""YAML read strictly: no repeated keys, no expansion of many aliases, dates as text."""

from typing import Any

import yaml

_ALIASES = 100


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses what would be read differently from how it looks."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count aliases: nested ones expand exponentially."""
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > _ALIASES:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"it has more than {_ALIASES} aliases",
                    self.peek_event().start_mark,  # type: ignore[no-untyped-call]
                )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse repeated keys, of which the last would silently win."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"it repeats the key {key.value!r}", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
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
