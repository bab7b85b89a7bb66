"""Reading checkpoints of the stages and copying weights between stages by explicit rules."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unildiff.utils.errors import UserError
from unildiff.utils.fingerprints import weights_hash
from unildiff.utils.validation import build
from unildiff.weights.checkpoint_files import load_file_safely

SHOWN = 5
_SETTINGS: dict[str, Any] = {
    "base": str,
    **dict.fromkeys(("base_vae", "init_from"), str | None),
    **dict.fromkeys(("network", "optimizer"), dict | None),
}
SOURCE = "started_from"
"""Key in a checkpoint: the fingerprint of the checkpoint whose weights it needs and does not hold; older ones lack it."""


@dataclass
class StageCheckpoint:
    """Weights of one stage.

    Attributes:
        path: where they were read.
        weights: names as in the stage (``model.unet...``), averaged ones (EMA) where the checkpoint has them.
        stage: class name of the stage that wrote them, "" if unknown.
        settings: what that stage was made with: base, network, what it was started from.
        step: optimiser steps taken.
        averaged: whether the weights are averaged ones.
        source: what it says under ``SOURCE``, "" where it says nothing.
    """

    path: Path
    weights: dict[str, Tensor]
    stage: str
    settings: dict[str, Any]
    step: int
    averaged: bool
    source: str = ""

    def fingerprint(self) -> str:
        """Return a short hash of the weights; all of them are read."""
        return weights_hash(sorted(self.weights.items()))

    def fill(self, model: nn.Module, rules: dict[str, str]) -> None:
        """Copy weights into ``model``: rules map a prefix in the checkpoint to a prefix in the model.

        Raises:
            UserError: if a weight matches no rule, or a parameter below a target prefix is not filled or has another
                shape; the names are listed.
        """
        parameters = dict(model.named_parameters())
        wanted = {name for name in parameters if name.startswith(tuple(rules.values()))}
        filled: dict[str, Tensor] = {}
        unmatched = set()
        for name, value in self.weights.items():
            bare = name.removeprefix("model.")
            source = next((prefix for prefix in rules if bare.startswith(prefix)), None)
            target = None if source is None else rules[source] + bare[len(source) :]
            if target is None or target not in parameters or parameters[target].shape != value.shape:
                unmatched.add(name)
            else:
                filled[target] = value
        if unmatched or wanted - set(filled):
            raise mismatch(
                f"init_from {self.path} ({self.stage or 'unknown stage'})", wanted - set(filled), unmatched, _BEFORE
            )
        with torch.no_grad():
            for target, value in filled.items():
                parameters[target].copy_(value)


_BEFORE = "use the checkpoint of the stage before, with the same network"


def mismatch(where: str, missing: set[str], unexpected: set[str], advice: str) -> UserError:
    """Return the one-line error that lists keys left over on either side, and says what to do."""
    parts = []
    for label, names in (("missing", missing), ("not expected (or of another shape)", unexpected)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {label}: {', '.join(sorted(names)[:SHOWN])}{more}")
    return UserError(f"{where}: weights do not match; {'; '.join(parts)}; {advice}")


def read_checkpoint(path: Path | str) -> StageCheckpoint:
    """Read a stage's checkpoint without executing anything it holds.

    Its weights come from the disk when they are used. The optimiser, two thirds of the file, is never loaded, and neither
    are trained weights that have an average.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint.
    """
    path = Path(path)
    content = load_file_safely(path, mapped=True)
    if "state_dict" not in content:
        raise UserError(f"checkpoint: {path} holds no state_dict; give a .ckpt file written by `unildiff fit`")
    weights = dict(content["state_dict"]) | dict(content.get("ema_state_dict") or {})
    if unknown := [name for name in content.get("ema_state_dict") or {} if name not in content["state_dict"]]:
        raise UserError(f"checkpoint: {path} averages {unknown[0]}, which it does not hold; give another checkpoint")
    settings = dict(content.get("hyper_parameters", {}))
    for name, kind in _SETTINGS.items():
        if name in settings:
            build(kind, settings[name], f"checkpoint: {path}: {name}")
    stage = str(settings.get("_class_path", "")).rpartition(".")[2]
    step, averaged = int(content.get("global_step", 0)), bool(content.get("ema_state_dict"))
    return StageCheckpoint(path, weights, stage, settings, step, averaged, str(content.get(SOURCE, "")))


def check_source(expected: str, found: str, where: Path | str, what: str) -> None:
    """Refuse to put weights onto others than they were trained on: a ``last.ckpt`` may have moved on since.

    Args:
        expected: fingerprint stored in the checkpoint under ``SOURCE``.
        found: fingerprint of the weights that are there now.
        where: path of those weights.
        what: name of the checkpoint, for the message.

    Raises:
        UserError: both are known, and differ.
    """
    if expected and found and expected != found:
        raise UserError(
            f"init_from: {where} holds other weights now ({found}) than {what} was trained on ({expected}); name the "
            "checkpoint that it was started from (--init_from of export, --model.init_from of fit and test), or train the "
            "stage again"
        )
