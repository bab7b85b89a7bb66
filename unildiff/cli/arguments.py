"""Arguments of fit, validate, test and predict, put in an order in which jsonargparse gives them their plain meaning.

jsonargparse reads from left to right, so that ``--data cdd11 --config c.yaml`` would silently take the config's data; a
class that replaces another inherits those of its arguments that it also has, so that CDD-11 would be read from another
set's folder; and a file of the class's name is taken for a config (style.md 4a, all measured). Here configs come first,
then what replaces their data and model, with a ``null`` in between that forgets arguments, then all the rest.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

import datamodules
from unildiff.utils.errors import UserError
from unildiff.utils.paths import config_path

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
_SINGLE = {"--config": "configs", "-c": "configs", "--data": "data", "--model": "model"}


@dataclass
class TrainerArguments:
    """The arguments of one Trainer command, taken apart.

    Attributes:
        command: fit, validate, test or predict.
        configs: content of each config file, in the order given, under the path it was found at.
        data: what replaces the configs' data: a class path or a config file; None keeps theirs.
        model: the same for the model.
        rest: all other arguments, in the order given.
    """

    command: str
    configs: dict[Path, dict[str, Any]] = field(default_factory=dict)
    data: str | None = None
    model: str | None = None
    rest: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, command: str, arguments: Sequence[str]) -> "TrainerArguments":
        """Take arguments apart and look up short names and config files.

        Raises:
            UserError: an unknown short name, a config that is missing or no yaml, an option without its value.
        """
        parsed = cls(command)
        for option, value in _pairs(arguments):
            match _SINGLE.get(option):
                case "configs":
                    path = config_path(value)
                    parsed.configs[path] = read_config(path)
                case "data":
                    parsed.data = _class_or_file(value) or datamodules.class_path(value)
                case "model":
                    parsed.model = _class_or_file(value) or stage_class_path(value)
                case _:
                    parsed.rest.append(value)
        return parsed

    @property
    def names_model(self) -> bool:
        """Whether the user says which model; else tests take the shipped one or the checkpoint's."""
        return self.model is not None or any(config.get("model") for config in self.configs.values())

    @property
    def model_class(self) -> str | None:
        """The class that the user names, as far as it can be seen without the parser."""
        named = [config.get("model") for config in self.configs.values()]
        if self.model is not None:
            is_file = self.model.endswith(FILES)
            named.append(read_config(Path(self.model)) if is_file else {"class_path": self.model})
        classes = [model["class_path"] for model in named if isinstance(model, dict) and "class_path" in model]
        return str(classes[-1]) if classes else None

    @property
    def names_data(self) -> bool:
        """Whether the user says which data."""
        return self.data is not None or any(config.get("data") for config in self.configs.values())

    @property
    def checkpoint(self) -> str | None:
        """``ckpt_path`` on the line, else in a config."""
        return self._value("ckpt_path")

    @property
    def run_dir(self) -> str | None:
        """``run_dir`` on the line, else in a config."""
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
            from_checkpoint: ``{"class_path": ..., "init_args": ...}`` of the checkpoint's model: stronger than a class's
                defaults and the shipped config, weaker than everything that the user says.
        """
        arguments = [self.command]
        layer = [f"--config={json.dumps({'model': from_checkpoint})}"] if from_checkpoint else []
        if self.command != "fit" and not self.names_model:
            arguments += [f"--config={config_path(DEFAULT_CONFIG)}", *(["--model=null"] if layer else [])]
        if self.model is None:
            arguments += layer
        arguments += [f"--config={path}" for path in self.configs]
        if self.data is not None:
            arguments += ["--data=null", f"--data={self.data}"]
        if self.model is not None:
            arguments += ["--model=null", f"--model={self.model}", *layer]
        return arguments + self.rest


def stage_class_path(name: str) -> str:
    """Return the import path of a stage, e.g. for ``joint``.

    Raises:
        UserError: there is no such stage; the message lists all and the nearest.
    """
    plain = name.lower().replace("-", "_")
    if plain in MODELS:
        return MODELS[plain]
    near = get_close_matches(plain, MODELS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown model: {name!r}; there are {', '.join(MODELS)}{hint}")


def stage_name(class_path: str) -> str:
    """Return the short name of a stage's class, or its class name in lower case."""
    names = {path: name for name, path in MODELS.items()}
    return names.get(class_path, class_path.rpartition(".")[2].lower())


def read_config(path: Path) -> dict[str, Any]:
    """Return what a yaml config holds.

    Raises:
        UserError: it is no yaml (the line is named), or not a set of keys.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"config: {path}{where} is no yaml: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config: {path} is no text file; give a yaml config") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"config: {path} holds no keys but {str(content)[:40]!r}; see configs/ for examples")
    return content


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (option, value) of those options that are taken out, and ("", argument) of all else."""
    waiting = iter(arguments)
    for argument in waiting:
        option, equals, value = argument.partition("=")
        if option not in _SINGLE:
            yield "", argument
            continue
        if not equals:
            value = next(waiting, "-")
        if value.startswith("-") or not value:
            raise UserError(f"{option}: no value given; e.g. {option} {_EXAMPLES[_SINGLE[option]]}")
        yield option, value


_EXAMPLES = {"configs": "configs/tiny/joint.yaml", "data": "cdd11", "model": "joint"}


def _class_or_file(value: str) -> str | None:
    """Return a class path as it is, a yaml file as its full path, and None for a short name."""
    if value.endswith(FILES):
        return str(config_path(value))
    return value if "." in value else None
