"""Load another method's model: a file that spandrel knows, a model of deepinv, or a Python function.

Axis letters: B batch (1 here), H/W pixels.
"""

import contextlib
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unildiff.results.bundle import sha256
from unildiff.rivals import is_rival
from unildiff.utils.errors import UserError

Restore = Callable[[Tensor], Tensor]
"""(1, 3, H, W) float32 in [0, 1] to the same shape."""

_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_DEEPINV_MULTIPLE = 8  # its restoration networks halve the image three times

# Keys of weights that spandrel mistakes for another architecture, with the right one.
_TAKEN_FOR_ANOTHER = {
    "prompt_param": "PromptIR; deepinv has it: --model deepinv:PromptIR:{file}",
    "fre1.": "AdaIR; give a function of your own that builds it: --model MODULE:FUNCTION",
    "promptBlock": "InstructIR; give a function of your own that builds it: --model MODULE:FUNCTION",
}


@dataclass(frozen=True)
class Rival:
    """Another method's model.

    Attributes:
        name: Name that the user gave.
        label: Name of its row in tables.
        restore: The model as a function.
        multiple_of: Both sides of its input must be multiples of this.
        told: Whether it is given the degradation, e.g. a noise level, so that it is not blind.
        about: Provenance for `run.json`.
    """

    name: str
    label: str
    restore: Restore
    multiple_of: int
    told: bool
    about: dict[str, Any]


def load_rival(name: str, device: torch.device, sigma: float | None = None) -> Rival:
    """Load another method's model.

    Args:
        name: `spandrel:FILE`, `deepinv:NAME` (its published weights), `deepinv:NAME:FILE`, or `MODULE:FUNCTION`.
        device: Device of the model.
        sigma: Noise level in 0..255, for models of deepinv that need it.

    Raises:
        UserError: The package is not installed, the file is not a model for images of this size, or it does not load.
    """
    kind, _, rest = name.partition(":")
    if not is_rival(name) or not rest:
        raise UserError(f"--model {name}: give spandrel:FILE, deepinv:NAME, deepinv:NAME:FILE or MODULE:FUNCTION")
    if kind == "spandrel":
        return _spandrel(name, Path(rest), device)
    return _deepinv(name, rest, device, sigma) if kind == "deepinv" else _function(name, kind, rest, device)


def _spandrel(name: str, file: Path, device: torch.device) -> Rival:
    if not file.is_file():
        raise UserError(f"--model {name}: there is no file {file}")
    if file.suffix.lower() not in _SUFFIXES:
        raise UserError(f"--model {name}: spandrel reads {', '.join(_SUFFIXES)}")
    spandrel = _package("spandrel")
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Restormer, MPRNet and others, under licences of their own
        importlib.import_module("spandrel_extra_arches").install(ignore_duplicates=True)
    loader = spandrel.ModelLoader(device=device)
    try:
        state = loader.load_state_dict_from_file(file)
    except Exception as error:  # noqa: BLE001  a damaged file raises whatever its parser raises
        raise UserError(f"--model {name}: the file cannot be read ({_line(error)}); download it again") from None
    for part, what in _TAKEN_FOR_ANOTHER.items():
        if any(part in key for key in state):
            raise UserError(f"--model {name}: these are weights of {what.format(file=file)}")
    try:
        found = loader.load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        raise UserError(
            f"--model {name}: spandrel does not know this architecture; give a function that builds it: --model MODULE:FUNCTION"
        ) from None
    except Exception as error:  # noqa: BLE001  taken for an architecture that it is not
        raise UserError(
            f"--model {name}: spandrel detects an architecture that its weights do not fit ({_line(error)}); give a "
            "function that builds it: --model MODULE:FUNCTION"
        ) from None
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale != 1 or found.input_channels != 3:
        raise UserError(
            f"--model {name}: {found.architecture.name} with scale {found.scale} and {found.input_channels} channels is not a "
            "restorer of RGB images at their own size; give another file"
        )
    found.eval()
    about = {"weights": str(file), "weights_sha256": sha256(file), "architecture": found.architecture.name}
    multiple = found.size_requirements.multiple_of
    return Rival(name, f"{found.architecture.name} ({file.name})", found, multiple, False, about)


def _deepinv(name: str, rest: str, device: torch.device, sigma: float | None) -> Rival:
    models = _package("deepinv").models
    architecture, _, given = rest.partition(":")
    network = getattr(models, architecture, None)
    if not (inspect.isclass(network) and issubclass(network, nn.Module)):
        raise UserError(f"--model {name}: deepinv has no model {architecture}; see deepinv.models")
    parameters = inspect.signature(network.__init__).parameters
    forward = inspect.signature(network.forward).parameters
    if "sigma" in forward and forward["sigma"].default is inspect.Parameter.empty and sigma is None:
        raise UserError(f"--model {name}: it needs the noise level; give --sigma 25 (of 255); it is then not blind")
    if given and not Path(given).is_file():
        raise UserError(f"--model {name}: there is no file {given}")
    if not given and getattr(parameters.get("pretrained"), "default", None) is None:
        raise UserError(f"--model {name}: deepinv publishes no weights of it; give a file: deepinv:{architecture}:FILE")
    try:
        model = network(**({"pretrained": None} if given and "pretrained" in parameters else {}))
        if given:
            model.load_state_dict(_state(Path(given)))
    except Exception as error:  # noqa: BLE001  no network, or weights of another model
        hint = "" if given else f"; fetch them yourself and give deepinv:{architecture}:FILE"
        raise UserError(f"--model {name}: its weights cannot be loaded ({_line(error)}){hint}") from None
    model = model.to(device).eval().requires_grad_(False)
    told = sigma is not None and "sigma" in forward

    def restore(image: Tensor) -> Tensor:
        result: Tensor = model(image, sigma=sigma / 255) if told and sigma is not None else model(image)
        return result

    about = {"weights": given or "deepinv's published weights", "architecture": architecture, "sigma": sigma}
    if given:
        about["weights_sha256"] = sha256(Path(given))
    return Rival(name, f"{architecture} (deepinv)", restore, _DEEPINV_MULTIPLE, told, about)


def _state(file: Path) -> dict[str, Tensor]:
    """Return the weights in a file without executing anything, out of the containers that training codes use."""
    found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    for key in ("state_dict", "params_ema", "params", "model"):
        if isinstance(found.get(key), dict):
            found = found[key]
    for prefix in ("module.", "net.", "model."):
        if all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return dict(found)


def _function(name: str, module: str, function: str, device: torch.device) -> Rival:
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the working folder, as with `python -m`
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"--model {name}: {_line(error)}; give MODULE:FUNCTION of a module that can be imported"
        ) from None
    if inspect.isclass(found) and issubclass(found, nn.Module):
        found = found()
    if isinstance(found, nn.Module):
        found = found.to(device).eval()
    if not callable(found):
        raise UserError(f"--model {name}: {function} is not a function of an image")
    return Rival(name, function, found, 1, False, {"architecture": name})


def _package(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed ({_line(error)}): pip install 'unildiff[rivals]'") from None


def _line(error: BaseException) -> str:
    """Return the beginning of an error's message in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}..."
