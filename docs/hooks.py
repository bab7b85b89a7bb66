"""Fills docs/reference/ from the parser: the help of every command, and every key of a config."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

os.environ["COLUMNS"] = "110"  # width of the help texts


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the placeholders of generated parts."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    if "<!-- keys -->" in markdown:
        markdown = markdown.replace("<!-- keys -->", keys())
    return markdown


def on_post_build(config: Any, **_: Any) -> None:
    """Publish the JSON schema of configs beside the pages."""
    from unildiff.cli.schema import config_schema

    Path(config["site_dir"], "schema.json").write_text(json.dumps(config_schema()), encoding="utf-8")


def commands() -> str:
    """Return the help of every command."""
    from unildiff.cli.commands import COMMANDS
    from unildiff.cli.main import main

    parts = []
    for name in COMMANDS:
        text = io.StringIO()
        with redirect_stdout(text), suppress(SystemExit):
            main([*name.split(), "--help"])
        parts.append(f"## unildiff {name}\n\n```text\n{text.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


def keys() -> str:
    """Return a table of keys for the top level, the Trainer, every stage and every datamodule."""
    from unildiff.cli.schema import config_schema

    schema = config_schema()
    top = schema["properties"]
    parts = [
        "## Top level\n",
        _table({name: top[name] for name in ("seed_everything", "run_dir", "ckpt_path")}, schema),
    ]
    for base, key in (("StageModule", "model"), ("RestorationDataModule", "data")):
        for option in schema["$defs"][base]["anyOf"]:
            path = option.get("properties", {}).get("class_path", {}).get("const", "")
            if path.startswith(("unildiff.stages.", "unildiff.datamodules.", "datamodules.")):
                summary = option.get("description", "").partition("\n")[0]
                arguments = option["properties"].get("init_args", {}).get("properties", {})
                parts += [
                    f"## {key}: {path.rpartition('.')[2]}\n",
                    f"`class_path: {path}`\n\n{summary}\n",
                    _table(arguments, schema),
                ]
    parts += ["## trainer\n", "The arguments of Lightning's Trainer.\n", _table(top["trainer"]["properties"], schema)]
    return "\n".join(parts)


def _table(properties: dict[str, Any], schema: dict[str, Any]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, found in _flat(properties, schema, ""):
        kind = found.get("type", "/".join(str(each.get("type", "")) for each in found.get("anyOf", ())))
        kind = "/".join(kind) if isinstance(kind, list) else kind
        if "enum" in found:
            kind = ", ".join(map(str, found["enum"]))
        default = f"`{json.dumps(found['default'])}`" if "default" in found else ""
        meaning = " ".join(found.get("description", "").split()).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{name}` | {kind.replace('|', '/').strip('/')} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _flat(properties: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield dotted names and schemas; nested settings (``network.fusion``) are followed, classes are not."""
    for name, found in properties.items():
        if name == "$schema":
            continue
        options = [found, *found.get("anyOf", ())]
        options = [schema["$defs"][each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in options]
        inner = next((each["properties"] for each in options if "properties" in each), None)
        if inner is None or "class_path" in inner:
            yield prefix + name, found
        else:
            yield from _flat(inner, schema, f"{prefix}{name}.")
