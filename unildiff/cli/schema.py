"""JSON schema of our configs, for editors that complete and check YAML files."""

import json
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from unildiff.cli.arguments import MODELS
from unildiff.data.datamodule import RestorationDataModule
from unildiff.stages.base import StageModule
from unildiff.utils import datamodules

_OBJECTS = ("callbacks", "plugins", "logger", "strategy", "profiler", "accelerator")
"""Arguments of the Trainer that accept classes of Lightning; the schema allows any value."""


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of a config of fit, validate, test and predict."""
    for path in MODELS.values():
        import_module(path.rpartition(".")[0])
    for name in datamodules.names():
        datamodules.class_path(name)
    parser = ArgumentParser()
    parser.add_argument("--seed_everything", type=int | bool, default=0, help="Seed of everything random.")
    parser.add_argument("--run_dir", type=str | None, default=None, help="Folder of the run.")
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to resume or to evaluate.")
    parser.add_class_arguments(Trainer, "trainer", skip=set(_OBJECTS))
    parser.add_subclass_arguments(StageModule, "model", required=False)
    parser.add_subclass_arguments(RestorationDataModule, "data", required=False)
    schema: dict[str, Any] = json.loads(parser.get_completion_script("jsonschema"))
    schema["properties"]["trainer"]["properties"] |= {name: {} for name in (*_OBJECTS, "callbacks+")}
    _drop_required(schema)
    return schema


def _drop_required(schema: Any) -> None:
    """Require no key: another config, or the command line, may give it."""
    if isinstance(schema, dict):
        schema.pop("required", None)
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _drop_required(inner)
