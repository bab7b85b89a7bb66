"""Puts the arguments of fit, validate, test and predict into an order that jsonargparse reads as the user means it.

jsonargparse reads from left to right, so ``--data cdd11 --config c.yaml`` would silently take the data of the config. A class
that replaces another inherits those settings that both have, so CDD-11 would be read from the folder of another dataset. A
file with the name of a class is taken for a config. Therefore configs come first here, then what replaces their data and
model, with a ``null`` in between that drops the inherited settings, then everything else.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from unildiff.utils import datamodules
from unildiff.utils.errors import UserError
from unildiff.utils.paths import config_path, with_home
from unildiff.utils.validation import shown
from unildiff.utils.yaml_files import parse_yaml

MODELS = {
    "alignment": "unildiff.stages.alignment.AlignmentModule",
    "joint": "unildiff.stages.joint.JointFinetuneModule",
    "joint_lora": "unildiff.stages.joint_lora.JointLoRAModule",
    "decoder": "unildiff.stages.decoder.DecoderFinetuneModule",
    "pretrain_vae": "unildiff.stages.pretrain.PretrainVAEModule",
    "pretrain_unet": "unildiff.stages.pretrain.PretrainUNetModule",
}
DEFAULT_CONFIG = "configs/tiny/test.yaml"
FILES = (".yaml", ".yml", ".json")
_EXAMPLES = {"--config": "configs/tiny/joint.yaml", "--data": "cdd11", "--model": "joint"}


@dataclass
class TrainerArguments:
    """The arguments of one Trainer command, sorted by their meaning.

    Attributes:
        command: fit, validate, test or predict.
        configs: content of each config file by its path, in the order given.
        data: replaces the data of the configs: a short name, a class path or a config file; None keeps theirs.
        model: replaces the model of the configs: a class path or a config file; None keeps theirs.
        rest: all other arguments, in the order given.
    """

    command: str
    configs: dict[Path, dict[str, Any]] = field(default_factory=dict)
    data: str | None = None
    model: str | None = None
    rest: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, command: str, arguments: Sequence[str]) -> "TrainerArguments":
        """Sort arguments and look up short names and config files.

        Raises:
            UserError: an unknown short name, a missing or invalid config, or an option without its value.
        """
        parsed = cls(command)
        for option, value in _pairs(arguments):
            match option:
                case "--config":
                    path = config_path(value)
                    parsed.configs[path] = read_config(path)
                case "--data":
                    parsed.data = _class_or_file(value) or datamodules.known_name(value)
                case "--model":
                    parsed.model = _class_or_file(value) or stage_class_path(value)
                case _:
                    parsed.rest.append(value)
        return parsed

    @property
    def names_model(self) -> bool:
        """Whether the user names a model; otherwise tests take the shipped model or that of the checkpoint."""
        return self.model is not None or any(config.get("model") for config in self.configs.values())

    @property
    def model_class(self) -> str | None:
        """The class path of the user's model, as far as it can be told without the parser."""
        named = [config.get("model") for config in self.configs.values()]
        if self.model is not None:
            is_file = self.model.endswith(FILES)
            named.append(read_config(Path(self.model)) if is_file else {"class_path": self.model})
        classes = [model["class_path"] for model in named if isinstance(model, dict) and "class_path" in model]
        return str(classes[-1]) if classes else None

    @property
    def names_data(self) -> bool:
        """Whether the user names data."""
        return self.data is not None or any(config.get("data") for config in self.configs.values())

    @property
    def checkpoint(self) -> str | None:
        """``ckpt_path`` from the command line, else from a config."""
        return self._value("ckpt_path")

    @property
    def run_dir(self) -> str | None:
        """``run_dir`` from the command line, else from a config."""
        return self._value("run_dir")

    def _value(self, key: str) -> str | None:
        given = [config[key] for config in self.configs.values() if config.get(key)]
        for argument, after in zip(self.rest, [*self.rest, ""][1:], strict=True):
            if argument == f"--{key}":
                given.append(after)
            elif argument.startswith(f"--{key}="):
                given.append(argument.partition("=")[2])
        return None if not given or given[-1] in ("", "null") else str(given[-1])

    def ordered(self, from_checkpoint: dict[str, Any] | None = None) -> list[str]:
        """Return the arguments for the parser.

        Args:
            from_checkpoint: ``{"class_path": ..., "init_args": ...}`` of the checkpoint's model. It overrides the defaults of
                the class and the shipped config; everything that the user gives overrides it.
        """
        arguments = [self.command]
        layer = [f"--config={json.dumps({'model': from_checkpoint})}"] if from_checkpoint else []
        if self.command != "fit" and not self.names_model:
            arguments += [f"--config={config_path(DEFAULT_CONFIG)}", *(["--model=null"] if layer else [])]
        if self.model is None:
            arguments += layer
        arguments += [f"--config={path}" for path in self.configs]
        if self.data is not None:
            data = _data_of_options(self.data) if _class_or_file(self.data) else datamodules.class_path(self.data)
            arguments += ["--data=null", f"--data={data}"]
        if self.model is not None:
            arguments += ["--model=null", f"--model={self.model}", *layer]
        return arguments + self.rest


def stage_class_path(name: str) -> str:
    """Return the import path of a stage, e.g. for ``joint``.

    Raises:
        UserError: no stage has this name; the message lists all of them and the nearest.
    """
    plain = name.lower().replace("-", "_")
    if plain in MODELS:
        return MODELS[plain]
    near = get_close_matches(plain, MODELS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"unknown model: {name!r}; {hint}Choose from {', '.join(MODELS)}")


def stage_name(class_path: str) -> str:
    """Return the short name of a stage's class, or its class name in lower case."""
    names = {path: name for name, path in MODELS.items()}
    return names.get(class_path, class_path.rpartition(".")[2].lower())


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a yaml config.

    Raises:
        UserError: the file is not valid YAML (the message gives the line), or not a mapping of keys.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"config: {path} is not a text file; give a yaml config") from error
    except ValueError as error:
        raise UserError(f"config: {path}{'' if str(error).startswith(',') else ' '}{error}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"config: {path} has no keys, only {shown(content)}; see configs/ for examples")
    for name, part in content.items():
        if name == "trainer" and not isinstance(part, dict):
            raise UserError(f"config: {path}: trainer is {shown(part)}; it must be a set of keys such as max_steps")
        if isinstance(part, dict) and not isinstance(part.get("init_args", {}), dict):
            raise UserError(f"config: {path}: {name}.init_args is {shown(part['init_args'])}; it must be a set of keys")
    return dict(with_home(content))


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (option, value) of --config, --data and --model, and ("", argument) for everything else."""
    waiting = iter(arguments)
    for argument in waiting:
        option, equals, value = argument.partition("=")
        option = "--config" if option == "-c" else option
        if option not in _EXAMPLES:
            yield "", argument
            continue
        if not equals:
            value = next(waiting, "-")
        if value.startswith("-") or not value:
            raise UserError(f"{option}: no value given; e.g. {option} {_EXAMPLES[option]}")
        yield option, value


def _data_of_options(value: str) -> str:
    """Return an option file of BasicSR translated as JSON; a class path or another file as it is."""
    if not value.endswith((".yaml", ".yml")):
        return value
    from unildiff.data.tools.convert import convert, has_dataset_blocks

    return json.dumps(convert(Path(value))) if has_dataset_blocks(read_config(Path(value))) else value


def _class_or_file(value: str) -> str | None:
    """Return a class path as it is, a yaml file as its full path, and None for a short name."""
    if value.endswith(FILES):
        return str(config_path(value))
    return value if "." in value else None
