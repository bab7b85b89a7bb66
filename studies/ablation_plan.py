"""The variants that `ablation` trains, and the stages that they share."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from unildiff.utils.paths import config_path

ALIGNMENT, JOINT, DECODER = "3_alignment", "4_joint", "5_decoder"
STAGES = (ALIGNMENT, JOINT, DECODER)
CONFIGS = "configs/tiny/weights"

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Args:
        name: as printed.
        group: the table it belongs to; a variant may stand in several.
        settings: of every stage, below ``model.``, e.g. ``network.fusion.kind``.
        decoder: of the decoder stage besides; None leaves that stage out: the plain VAE decoder.
    """

    name: str
    group: tuple[str, ...]
    settings: Settings = field(default_factory=dict)
    decoder: Settings | None = None

    def of_stage(self, stage: str) -> Settings:
        """Return all settings of a stage."""
        return {**self.settings, **((self.decoder or {}) if stage == DECODER else {})}

    @property
    def stages(self) -> tuple[str, ...]:
        """The trained stages, in order."""
        return STAGES if self.decoder is not None else STAGES[:2]


PLAIN = {"network.fusion.kind": "plain", "network.detail.kind": "none"}
NO_TEXT = {"network.use_text": False}
NO_DAEM = {"network.detail.kind": "none"}

PAPER, TUNED, EXPERTS, DROPOUT, BALANCE, ROUTING, FUSION = (
    "The paper's ablation",
    "Decoder tuned with and without experts",
    "Token experts in DAFF",
    "Caption dropout",
    "Weight of the balancing loss (lambda)",
    "What chooses a detail expert",
    "How LQ and latent tokens meet",
)
VARIANTS = (
    Variant("none", (PAPER,), PLAIN | NO_TEXT),
    Variant("text", (PAPER,), PLAIN),
    Variant("DAFF", (PAPER,), NO_DAEM | NO_TEXT),
    Variant("DAFF + text", (PAPER, EXPERTS, DROPOUT, FUSION), NO_DAEM),
    Variant("DAFF + text + DAEM", (PAPER, TUNED, BALANCE, ROUTING), {}, {}),
    # The paper's rows compare a tuned decoder with the plain one; this one is tuned, too.
    Variant("DAFF + text, tuned decoder without DAEM", (TUNED,), {}, NO_DAEM),
    Variant("DAFF + text + DAEM on LQ latents", (TUNED,), {}, {"latents": "lq"}),
    Variant("token experts", (EXPERTS,), NO_DAEM | {"network.fusion.token_experts": 4}),
    *(Variant(f"dropout {share:g}", (DROPOUT,), NO_DAEM | {"text_dropout": share}) for share in (0.0, 0.1, 0.4)),
    *(Variant(f"lambda {weight:g}", (BALANCE,), {}, {"auxiliary_weight": weight}) for weight in (0.0, 0.001, 0.1)),
    *(
        Variant(
            f"windows of {side}",
            (ROUTING,),
            {},
            {"network.detail.routing": "window", "network.detail.window_size": side},
        )
        for side in (8, 16)
    ),
    Variant("positions", (ROUTING,), {}, {"network.detail.routing": "position"}),
    Variant("one sequence", (FUSION,), NO_DAEM | {"network.fusion.merge": "sequence"}),
    Variant("single stream only", (FUSION,), NO_DAEM | {"network.fusion.num_double_blocks": 0}),
    Variant("double stream only", (FUSION,), NO_DAEM | {"network.fusion.num_single_blocks": 0}),
    Variant("residual attention", (FUSION,), NO_DAEM | {"network.fusion.kind": "residual_attention"}),
)
TABLES = {
    "paper": PAPER,
    "decoder": TUNED,
    "experts": EXPERTS,
    "dropout": DROPOUT,
    "lambda": BALANCE,
    "routing": ROUTING,
    "fusion": FUSION,
}
AS_IN_GROUP = {(EXPERTS, "DAFF + text"): "no token experts", (DROPOUT, "DAFF + text"): "dropout 0.2"}
AS_IN_GROUP |= {(BALANCE, "DAFF + text + DAEM"): "lambda 0.01", (ROUTING, "DAFF + text + DAEM"): "images"}
AS_IN_GROUP |= {(FUSION, "DAFF + text"): "side by side on channels"}
"""Names of variants that appear in several tables, in all but the first of these."""


@dataclass(frozen=True)
class Budget:
    """The budget of every variant.

    Args:
        base: folder that all start from: the base after step 2 of `make tiny-weights`; its weights distinguish it, too.
        steps: optimiser steps of alignment, joint and decoder.
        extra: further arguments for `unildiff fit`.
        photographs: arguments of other training data, before all of ``extra``; none: the generated scenes of the configs.
    """

    base: str
    steps: tuple[int, int, int]
    extra: tuple[str, ...] = ()
    photographs: tuple[str, ...] = ()

    def of(self, stage: str) -> int:
        """Return a stage's steps."""
        return self.steps[STAGES.index(stage)]

    def base_digest(self) -> str:
        """Return a hash of the base's weights."""
        digest = hashlib.blake2b(digest_size=8)
        for file in sorted(Path(self.base).rglob("*.safetensors")):
            digest.update(file.read_bytes())
        return digest.hexdigest()


def folder_names(variant: Variant, budget: Budget, seed: int) -> list[str]:
    """Return a folder per stage, named by everything that its weights depend on: equal ones are trained once.

    Settings of the decoder (experts or not, lambda) do not affect the stages before, so these are shared.
    """
    names: list[str] = []
    base = budget.base_digest()
    for stage in variant.stages:
        config = config_path(f"{CONFIGS}/{stage}.yaml").read_text(encoding="utf-8")
        settings = dict(variant.of_stage(stage))
        if stage != DECODER:
            settings.pop("network.detail.kind", None)
        made_of = [names[-1:], config, settings, base, budget.of(stage), budget.photographs + budget.extra, seed]
        digest = hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=5).hexdigest()
        names.append(f"{stage}_{digest}")
    return names


def fit_arguments(
    variant: Variant, stage: str, budget: Budget, seed: int, run_dir: str, init_from: str | None
) -> list[str]:
    """Return the arguments of `unildiff` that train a stage, or resume it."""
    steps = budget.of(stage)
    settings = dict(variant.of_stage(stage))
    if stage == DECODER:  # a cache of latents belongs to one joint checkpoint; here there are many
        settings = {"latents": "sample"} | settings
    else:
        settings.pop("network.detail.kind", None)
    arguments = ["fit", "--config", f"{CONFIGS}/{stage}.yaml", "--run_dir", run_dir, "--ckpt_path", "auto"]
    arguments += [f"--seed_everything={seed}", f"--model.base={budget.base}", f"--trainer.max_steps={steps}"]
    arguments += [f"--model.optimizer.warmup_steps={max(1, steps // 10)}", "--trainer.limit_val_batches=0"]
    # In one process, because Lightning's DDP would restart this command; the global batch is unchanged.
    config = yaml.safe_load(config_path(f"{CONFIGS}/{stage}.yaml").read_text(encoding="utf-8"))
    batch = config["data"]["init_args"]["batch_size"] * config["trainer"]["devices"]
    arguments += ["--trainer.devices=1", "--trainer.strategy=auto"]
    if init_from is not None:
        arguments += [f"--model.init_from={init_from}"]
    arguments += [f"--model.{key}={_text(value)}" for key, value in settings.items()]
    return [*arguments, *budget.photographs, f"--data.batch_size={batch}", *budget.extra]


def photograph_arguments(folder: Path) -> tuple[str, ...]:
    """Return the arguments of `unildiff fit` for crops of the photographs in ``folder/train``."""
    settings = {"root": folder / "train", "val_root": folder / "validation", "captions_from_names": "true"}
    settings |= {"crop_size": 128, "scale": "[0.3, 0.8]", "num_workers": 0}
    return (
        "--data=datamodules.photographs.PhotographsDataModule",
        *(f"--data.{key}={value}" for key, value in settings.items()),
    )


def chosen(names: Sequence[str], groups: Sequence[str] = ()) -> list[Variant]:
    """Return the variants of these names, or those of which a table needs, in the plan's order; all without names."""
    return [v for v in VARIANTS if not (names or groups) or v.name in names or set(groups) & set(v.group)]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
