"""The settings of the stages: one dataclass per kind of stage, each field once.

A stage takes the fields of its dataclass as keyword arguments, so that ``init_args`` in a yaml file and the
hyper-parameters in a checkpoint are flat: ``JointFinetuneModule(base="tiny", noise_offset=0.0)``.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unildiff.core.network import NetworkConfig
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.utils.errors import UserError
from unildiff.utils.validation import NonNegativeFloat, NonNegativeInt, PositiveInt, Share, build, check_fields
from unildiff.weights.lora import LoRAConfig

ComparisonRow = Literal["round_trip", "no_diffusion", "after_joint"]


@dataclass
class EvaluationSettings:
    """How a test is scored. It is never stored in a checkpoint.

    Args:
        protocol: a name of ``unildiff.metrics.protocols``; None takes the protocol of the dataset.
        metrics: per-image metrics, e.g. psnr ssim lpips dists.
        stages: additional rows, which score the same images at other points of the pipeline.
        save_inputs: keep inputs and ground truth beside the restored images, for figures and the report.
        told: set this where the inputs or captions were made by someone who knew the degradation (a prompt, a list,
            equalisation for low light); the run is then marked as not blind. Captions that name the degradation are
            found without this setting.
    """

    protocol: str | None = None
    metrics: list[str] = field(default_factory=lambda: ["psnr", "ssim"])
    stages: list[ComparisonRow] = field(default_factory=list)
    save_inputs: bool = True
    told: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass
class LatentCacheConfig:
    """Restored latents that are made once before training and kept on disk.

    Args:
        folder: folder of the cache, on a disk that all machines of the run see. A run that finds it continues it.
        samples: training samples that are made. With n images, 3 n samples are three crops of each image, each with its
            own noise. Training repeats them in a new order every time.
        skips: keep the skips of the LQ encoder too. This saves an encoder pass per step and takes 117 MB per sample at
            SDXL's size and 512 px in bfloat16.
    """

    folder: str = "cache/latents"
    samples: PositiveInt = 20000
    skips: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


if TYPE_CHECKING:
    Optimizer = OptimizerConfig
    Sampling = SamplingSettings
    Evaluation = EvaluationSettings
    LoRA = LoRAConfig
    Cache = LatentCacheConfig
else:  # null in a yaml file or checkpoint means the defaults; ``__post_init__`` fills them in
    Optimizer = OptimizerConfig | None
    Sampling = SamplingSettings | None
    Evaluation = EvaluationSettings | None
    LoRA = LoRAConfig | None
    Cache = LatentCacheConfig | None


@dataclass(kw_only=True)
class StageSettings:
    """Settings shared by all restoration stages.

    Args:
        base: ``tiny`` (ships with the package), a diffusers folder, a Hugging Face id or a single file; ``BASE+FILE`` puts a
            fine-tuned U-Net or a LoRA on it.
        base_vae: another folder or id for the VAE, e.g. the fp16-safe one; None takes the VAE of ``base``.
        network: sizes and switches; None reads them from the folder of weights given as ``init_from`` or ``base``.
        init_from: where the initial weights come from: a checkpoint of the previous stage, or a folder of weights
            (``tiny``, or one made by `unildiff export`), which must then be the base too; ``faithdiff:FILE`` starts the
            joint stage from FaithDiff's U-Net and LQ encoder; None starts from the base.
        optimizer: AdamW and its schedule.
        sampling: how images are sampled in validation, test and prediction; never read from a checkpoint.
        text_dropout: share of the samples that are trained with the empty caption (supplement: 20%).
        gradient_checkpointing: recompute activations in the backward pass instead of storing them.
        frozen_dtype: dtype of the frozen linear and convolution weights during training. bfloat16 halves their memory. Under
            bf16-mixed the results stay the same, because autocast rounds these weights anyway.
        evaluation: how a test is scored; never read from a checkpoint.
    """

    base: str = "tiny"
    base_vae: str | None = None
    network: NetworkConfig | None = None
    init_from: str | None = None
    optimizer: Optimizer = field(default_factory=OptimizerConfig)
    sampling: Sampling = field(default_factory=SamplingSettings)
    text_dropout: Share = 0.2
    gradient_checkpointing: bool = False
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    evaluation: Evaluation = field(default_factory=EvaluationSettings)

    never_stored: ClassVar[tuple[str, ...]] = ("sampling", "evaluation")
    """Fields that belong to the person who tests, not to the one who trained: checkpoints leave them out."""

    def __post_init__(self) -> None:
        """Accept plain dictionaries, which is what checkpoints hold, and None for the defaults of nested settings."""
        if isinstance(self.network, dict):
            self.network = build(NetworkConfig, self.network, "network")
        for name, kind in _nested(type(self)).items():
            value = getattr(self, name)
            setattr(self, name, build(kind, {} if value is None else value, name))
        check_fields(self)

    def stored(self) -> dict[str, Any]:
        """Return the fields that a checkpoint keeps."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in self.never_stored}


@dataclass(kw_only=True)
class DenoisingSettings(StageSettings):
    """Settings of the alignment and joint stages.

    Args:
        noise_offset: strength of noise that is constant over a latent channel (authors' scripts: 0.02).
        auxiliary_weight: weight of the balancing loss (supplement: lambda = 0.01), used with token experts.
        terminal_share: share of samples trained at the last timestep, where only the LQ image shows the content, in
            addition to those that reach it by chance (our choice for the tiny model; paper: 0, uniform timesteps).
    """

    noise_offset: NonNegativeFloat = 0.02
    auxiliary_weight: NonNegativeFloat = 0.01
    terminal_share: Share = 0.0


@dataclass(kw_only=True)
class LoRASettings(DenoisingSettings):
    """Settings of the joint stage with adapters.

    Args:
        lora: rank of the adapters and dtype of what is frozen.
    """

    lora: LoRA = field(default_factory=LoRAConfig)


@dataclass(kw_only=True)
class DecoderSettings(StageSettings):
    """Settings of the decoder stage.

    Args:
        latents: the restored latents that the decoder learns from. ``sample`` runs the sampler with
            ``training_sampling`` in every step. ``cached`` runs it once before training for ``cache.samples`` samples
            and keeps the result on disk. ``one_step`` takes the clean latents implied by one prediction at a random
            timestep. ``lq`` skips the diffusion and decodes the latents of the LQ image (ablation).
        training_sampling: sampler of ``sample`` and ``cached``; by default 4 unguided steps (our choice: a decoder step
            costs less than 20 guided ones).
        cache: where ``cached`` keeps the latents, and how many; never read from a checkpoint.
        ssim_weight: weight of 1 - SSIM (authors' refiner script: 0.2).
        auxiliary_weight: weight of the balancing loss (supplement: lambda = 0.01).
        log_weight: weight of ln(MSE + 1e-4) of each image, see ``image_loss`` (our choice; paper: 0).
        tone_weight: weight of the error of means over 16x16 pixels, see ``image_loss`` (our choice; paper: 0).
        cut_every: every this many optimiser steps, crops are cut into quarters that are restored and compared as images
            of their own, so that DAEM also learns to decide for small images (our choice; 0: never, as in the paper).
    """

    latents: Literal["sample", "cached", "one_step", "lq"] = "sample"
    training_sampling: Sampling = field(default_factory=lambda: SamplingSettings(4, 1.0))
    cache: Cache = field(default_factory=LatentCacheConfig)
    ssim_weight: NonNegativeFloat = 0.2
    auxiliary_weight: NonNegativeFloat = 0.01
    log_weight: NonNegativeFloat = 0.0
    tone_weight: NonNegativeFloat = 0.0
    cut_every: NonNegativeInt = 0

    never_stored: ClassVar[tuple[str, ...]] = (*StageSettings.never_stored, "training_sampling", "cache")

    def __post_init__(self) -> None:
        if self.training_sampling is None:
            self.training_sampling = SamplingSettings(4, 1.0)
        super().__post_init__()
        if self.cut_every and self.latents == "cached":
            raise UserError(
                f"cut_every: {self.cut_every}, but cached latents are of whole crops; give --model.cut_every 0, or "
                "--model.latents sample"
            )


def _nested(kind: type) -> dict[str, Any]:
    """Return the fields of ``kind`` that are settings of their own, with their classes."""
    known = {
        "optimizer": OptimizerConfig,
        "sampling": SamplingSettings,
        "evaluation": EvaluationSettings,
        "lora": LoRAConfig,
        "training_sampling": SamplingSettings,
        "cache": LatentCacheConfig,
    }
    return {each.name: known[each.name] for each in fields(kind) if each.name in known}
