"""Every key of every shipped config with null, -1, 0, 1e30, nan, text, [] and {}: one line, or a run that does what it says."""

import copy
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.small import small_model
from unildiff.cli.arguments import TrainerArguments, read_config
from unildiff.cli.main import main
from unildiff.cli.trainer_settings import check_settings
from unildiff.utils.errors import UserError
from unildiff.utils.paths import config_names, config_path
from unildiff.weights.folder import save_model

VALUES: tuple[Any, ...] = (None, -1, 0, 1e30, math.nan, "x", [], {})
KINDS = {"x": str, "[]": list, "{}": dict}
Path_ = tuple[Any, ...]

# Which keys take what besides values of the kind that the config has. Everything else is refused.
ALLOWED = {
    "None": {"run_dir", "accelerator", "strategy", "precision", "benchmark", "callbacks", "gradient_clip_val"}
    | {"log_every_n_steps", "check_val_every_n_epoch", "val_check_interval", "limit_val_batches", "base_vae", "network"}
    | {"init_from", "sampling", "training_sampling", "optimizer", "cache", "lora", "num_workers", "root", "val_root"}
    | {"degradations", "sigmas", "test_sigmas", "weights", "lq_encoder_learning_rate", "monitor", "model", "data"}
    | {"find_unused_parameters", "gradient_as_bucket_view", "scene_cache", "enable_model_summary", "init_args"}
    | {"use_distributed_sampler", "dataset", "picture_size", "scene_size", "displays"},
    "-1": {"devices", "max_steps", "keep"},
    "0": {"seed_everything", "limit_val_batches", "gradient_clip_val", "weight_decay", "warmup_steps", "learning_rate"}
    | {"text_dropout", "noise_offset", "auxiliary_weight", "guidance_scale", "num_workers", "terminal_share"}
    | {"lq_encoder_learning_rate", "num_double_blocks", "num_single_blocks", "token_experts", "last_timestep"}
    | {"expert_depth", "mix_depth", "decay", "keep", "kl_weight", "chroma_weight", "squared_weight", "start_pictures"}
    | {"degraded_share", "sigmas", "test_sigmas", "weights", "evening", "ssim_weight", "log_weight", "tone_weight"}
    | {"cut_every", "scenes", "val_each", "scale", "clear", "noise"},
    "'x'": {"strategy", "model", "data", "callbacks"},
    "[]": {"degradations"},
    "{}": set(),
    "1e+30": set(),
    "nan": set(),
}


def merge(into: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Put one config onto another as the parser does: another class replaces a class."""
    for key, value in given.items():
        there = into.get(key.removesuffix("+"))
        if key.endswith("+"):
            into[key[:-1]] = [*(there or []), *value]
        elif isinstance(value, dict) and isinstance(there, dict) and value.get("class_path", "") in ("", there.get("class_path")):  # fmt: skip
            merge(there, value)
        else:
            into[key] = copy.deepcopy(value)
    return into


def whole_config(name: str) -> dict[str, Any]:
    """Return a config together with those that its first line puts below it."""
    line = config_path(name).read_text().partition("\n")[0]
    found = re.search(r"unildiff ((?:fit|validate|test|predict) [^`(]*)", line)
    assert found
    whole: dict[str, Any] = {}
    for content in TrainerArguments.parse("fit", shlex.split(found[1])[1:]).configs.values():
        merge(whole, content)
    content = read_config(config_path(name))
    return merge(whole, {"data": content} if "class_path" in content else content)


def keys(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of everything in nested dictionaries and lists."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key != "class_path":
            yield (*path, key)
            yield from keys(item, (*path, key))


def last_name(path: Path_) -> str:
    return next(key for key in reversed(path) if isinstance(key, str))


def at(config: Any, path: Path_) -> Any:
    for key in path:
        config = config[key]
    return config


def changed(config: dict[str, Any], *changes: tuple[Path_, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for path, value in changes:
        at(config, path[:-1])[path[-1]] = value
    return config


def accepted(config: dict[str, Any], value: Any, seen: set[str] | None = None) -> list[Path_]:
    """Return the keys that take a value; each (class, key, value) is tried once over all configs."""
    taken = []
    for path in keys(config):
        place = config
        named: list[str] = []
        for key in path:
            named = [place["class_path"]] if isinstance(place, dict) and "class_path" in place else named
            named.append(str(key))
            place = place[key]
        label = f"{named} {value!r}"
        if seen is not None and label in seen:
            continue
        if seen is not None:
            seen.add(label)
        try:
            check_settings("fit", changed(config, (path, value)))
        except UserError as error:
            assert str(error) and "\n" not in str(error)
        else:
            taken.append(path)
    return taken


def test_every_value_that_makes_no_sense_is_refused_in_one_line() -> None:
    seen: set[str] = set()
    wrong = []
    for name in config_names():
        config = whole_config(name)
        check_settings("fit", copy.deepcopy(config))
        for value in VALUES:
            for path in accepted(config, value, seen):
                kind = type(value) if value in ("x", [], {}) else None
                same = kind is not None and isinstance(at(config, path), kind)
                if not same and last_name(path) not in ALLOWED[repr(value)]:
                    wrong.append(f"{name}: {'.'.join(map(str, path))} takes {value!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("value", [None, 0, {}], ids=repr)
def test_what_is_taken_trains(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """All keys of a config that take a value get it at once; a class may still refuse one of them, in one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_model(small_model(), Path("base"), torch.float32)
    config = whole_config("configs/tiny/joint.yaml")
    config["model"]["init_args"]["base"] = "base"
    config["trainer"] |= {"max_steps": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0, "val_check_interval": 1, "log_every_n_steps": 1}  # fmt: skip
    config["trainer"] |= {"enable_progress_bar": False, "callbacks": [{"class_path": "unildiff.callbacks.Checkpointing", "init_args": {"keep": 1}}]}  # fmt: skip
    config["data"]["init_args"] |= {
        "crop_size": 32,
        "picture_size": 64,
        "batch_size": 1,
        "num_workers": 0,
        "val_size": 64,
    }
    config["run_dir"] = "run"
    kept = (("trainer",), ("trainer", "max_steps"), ("data", "init_args"))  # else it trains for long, or on large crops
    pending = [path for path in accepted(config, value) if path not in kept]
    for _ in range(8):
        outer = [path for path in pending if not any(path[: len(other)] == other for other in pending if other != path)]
        Path("c.yaml").write_text(yaml.safe_dump(changed(config, *((path, value) for path in outer))))
        code = main(["fit", "--config", "c.yaml"])
        lines = capfd.readouterr().err.splitlines()
        if code == 0:
            return
        errors = [line for line in lines if line.startswith("unildiff: error: ")]
        assert code == 2 and len(errors) == 1 and "Traceback" not in "".join(lines), lines
        refused = [path for path in outer if last_name(path) in errors[0]]
        assert refused, errors[0]
        pending = [path for path in pending if path != refused[0]]
    pytest.fail(f"refused again and again: {errors[0]}")
