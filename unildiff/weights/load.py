"""From what a user names to a model: a base, a folder of weights, a checkpoint with the chain it was started from.

Shared by the stages, `restore`, `export` and the pipeline; nothing here imports Lightning.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json
from unildiff.utils.paths import weights_path
from unildiff.weights.base import load_base
from unildiff.weights.base_files import locate
from unildiff.weights.checkpoints import StageCheckpoint, check_source, read_checkpoint
from unildiff.weights.folder import load_model, load_parts, read_network, stored_network_config
from unildiff.weights.foreign import FAITHDIFF, FAITHDIFF_RULES, read_faithdiff, split_additions
from unildiff.weights.lora import has_adapters, with_merged_adapters
from unildiff.weights.stage_parts import INITIALISED_FROM, TRAINED, parts_in


def assemble(
    base: str,
    base_vae: str | None = None,
    network: NetworkConfig | None = None,
    init_from: str | None = None,
    hand_over: dict[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[UniLDiff, StageCheckpoint | None]:
    """Return the model that a stage starts from, and the checkpoint that it was filled from, None where there was none.

    Args:
        base: ``tiny``, a diffusers folder, a single file or a Hugging Face id. Where it is a folder of weights (tiny, an
            exported model) and ``network`` is None, its fusion, LQ encoder and decoder are the start, too.
        base_vae: another VAE, or None.
        network: sizes and switches; None reads them from the folder of weights in ``init_from`` or ``base``.
        init_from: a folder of weights, ``tiny``, a checkpoint of the stage before, ``faithdiff:FILE``, or None for the base
            alone. Of a folder LQ encoder, fusion and decoder are taken; see ``check_own_base`` for its base.
        hand_over: which weights of a checkpoint are taken, prefix there -> prefix in the model.
        dtype: of the weights.

    Raises:
        UserError: something is missing or does not fit.
    """
    given, plain = weights_folder(init_from), split_additions(base)[0]
    faithdiff = init_from is not None and init_from.startswith(FAITHDIFF)
    locate(plain)  # what is missing is said before anything takes minutes, the base first
    if init_from is not None and given is None and not faithdiff and not Path(init_from).is_file():
        raise UserError(
            f"init_from: no checkpoint and no folder of weights {init_from}; train the stage before, or give "
            "--model.init_from"
        )
    folder = given or (weights_folder(plain) if network is None else None)
    model = UniLDiff(load_base(base, dtype, base_vae), network or stored_network(folder))
    if folder is not None:
        load_parts(model, folder)
    source = None
    if init_from is not None and faithdiff:
        source = read_faithdiff(init_from)
        source.fill(model, FAITHDIFF_RULES)
    elif init_from is not None and given is None:
        source = read_checkpoint(init_from)
        _fill(model, source, hand_over or {})
    return model.to(dtype), source


def check_own_base(base: str, init_from: str | None, trained: tuple[str, ...] = TRAINED["joint"]) -> None:
    """Refuse to put the fusion and decoder of a whole model onto another base than the U-Net and VAE they were trained with.

    Args:
        base: as in ``assemble``.
        init_from: as in ``assemble``.
        trained: parts that the stage trains and its checkpoints therefore hold.

    Raises:
        UserError: ``init_from`` is a folder of weights with a base in it, and ``base`` is not that folder; or it is FaithDiff's
            file for a stage whose checkpoints would not hold its U-Net.
    """
    if init_from is not None and init_from.startswith(FAITHDIFF) and trained != TRAINED["joint"]:
        raise UserError(
            f"init_from: {init_from} fills U-Net and LQ encoder, which only the joint stage trains and stores; start that stage "
            "from it (--config configs/joint.yaml)"
        )
    folder, own = weights_folder(init_from), weights_folder(split_additions(base)[0])
    if folder is not None and (folder / "unet").is_dir() and (own is None or own.resolve() != folder.resolve()):
        raise UserError(
            f"init_from: {init_from} is a whole model, with a U-Net and VAE of its own, but base is {base}; give one folder "
            "for both (--model.base, --model.init_from), or a checkpoint as --model.init_from"
        )


def model_from_checkpoint(
    path: Path, dtype: torch.dtype = torch.float32, init_from: str | None = None
) -> tuple[UniLDiff, StageCheckpoint]:
    """Return the whole model of a stage's checkpoint, averaged weights (EMA) where it has them.

    A checkpoint holds only what its stage trained; base, network and what came before are named in it and read again.

    Args:
        path: written by `unildiff fit`.
        dtype: of the weights.
        init_from: where to find the stage before, if it is no longer where the checkpoint says.

    Raises:
        UserError: one of them is missing or does not fit, or the stage before holds other weights than it did.
    """
    checkpoint = read_checkpoint(path)
    settings = checkpoint.settings
    trained = _trained_prefixes(checkpoint)
    before = init_from or located(settings.get("init_from"), path)
    if before is not None and weights_folder(before) is None:
        if trained != TRAINED["decoder"]:
            before = None  # its own weights include all those of the stage before
        elif not Path(before).is_file():
            raise UserError(
                f"checkpoint: {path} was started from {before}, which is not there; give its place with --init_from"
            )
    network = settings.get("network")
    model, source = assemble(
        located(settings.get("base", "tiny"), path),
        located(settings.get("base_vae"), path),
        stored_network_config(network, f"checkpoint: {path}") if network else None,
        before,
        INITIALISED_FROM["decoder"],
        dtype,
    )
    if source is not None and checkpoint.source:
        check_source(checkpoint.source, source.fingerprint(), source.path, str(path))
    _fill(model, checkpoint, {prefix: prefix for prefix in trained})
    return model, checkpoint


def located(name: Any, checkpoint: Path) -> Any:
    """Return where a relative path in a checkpoint's settings leads: from here, else from the folder in which its run began."""
    if not isinstance(name, str) or Path(name).exists():
        return name
    if "+" in name:
        return "+".join(located(part, checkpoint) for part in name.split("+"))
    for record in sorted(checkpoint.resolve().parent.parent.glob("run.fit*.json")):
        try:
            began = parse_json(record.read_text(encoding="utf-8"))["folder"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(began, str) and (Path(began) / name).exists():
            return str(Path(began) / name)
    return name


def _fill(model: UniLDiff, checkpoint: StageCheckpoint, rules: dict[str, str]) -> None:
    """Copy a checkpoint's weights into a model that is still on its base; adapters (LoRA) are merged."""
    if has_adapters(checkpoint.weights):
        merged = with_merged_adapters(checkpoint.weights, dict(model.named_parameters()))
        checkpoint = replace(checkpoint, weights=merged)
    checkpoint.fill(model, rules)


def load_restorer(source: str, dtype: torch.dtype = torch.float32) -> UniLDiff:
    """Return the model that a user names, ready to restore: ``tiny``, an exported folder, or a checkpoint file.

    Raises:
        UserError: it is none of these, or cannot be loaded.
    """
    path = weights_path(source) if source == "tiny" else Path(source)
    if path.is_file():
        model, _ = model_from_checkpoint(path, dtype)
    elif path.is_dir():
        model = load_model(path, dtype)
    elif source == "tiny":
        raise UserError(f"model: the shipped tiny model is not in {path}; make it with `make tiny-weights`")
    else:
        raise UserError(f"model: no file or folder {source}; give a checkpoint, an exported folder, or tiny")
    return model.eval().requires_grad_(False)


def check_sampling(model: UniLDiff, settings: SamplingSettings, what: str = "sampling") -> None:
    """Refuse steps that the model's schedule does not have, before any image is restored.

    Args:
        model: the model, with its schedule and its own last timestep.
        settings: sampling settings to check.
        what: name of the settings, for the message.

    Raises:
        UserError: the number of steps or the last timestep is out of range.
    """
    try:
        model.with_own(settings).timesteps(model.schedule)
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device: {name} cannot be used here ({reason}); give auto, cpu, cuda or mps") from None
    return device


def weights_folder(source: str | None) -> Path | None:
    """Return the folder that a name or path means, None if it is not a folder with added weights."""
    if source is None:
        return None
    folder = weights_path(source) if source == "tiny" else Path(source)
    return folder if (folder / "unildiff.json").is_file() else None


def stored_network(folder: Path | None) -> NetworkConfig:
    """Return the network of a folder of weights, the default one without a folder."""
    if folder is None:
        return NetworkConfig()
    return read_network(folder)


def _trained_prefixes(checkpoint: StageCheckpoint) -> tuple[str, ...]:
    """Return the parts of the model that a checkpoint's stage trained, told by the weights themselves."""
    parts = parts_in(checkpoint.weights)
    if parts is not None:
        return parts
    raise UserError(
        f"checkpoint: {checkpoint.path} ({checkpoint.stage or 'unknown stage'}) is of no restoration stage; "
        "give one of alignment, joint or decoder"
    )
