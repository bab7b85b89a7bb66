"""What the paper's three stages share: one restorer, its hand-over, validation, test and prediction.

Axis letters: B batch, H/W pixels.
"""

import logging
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.utils import make_grid

from unildiff.callbacks.run_record import git_state, package_versions
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.pixels import to_uint8
from unildiff.core.text import TextEmbedding
from unildiff.data.batch import PredictBatch, RestorationBatch
from unildiff.data.datamodule import RestorationDataModule
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.by_degradation import DegradationMetrics
from unildiff.stages.base import OptimizerConfig, StageModule, batch_pictures
from unildiff.stages.testing import EvaluationSettings, Predictions, TestRun, free_folder, means_text
from unildiff.utils.errors import UserError, check_share
from unildiff.utils.paths import PACKAGE
from unildiff.weights.checkpoints import SOURCE, check_source
from unildiff.weights.folder import network_config
from unildiff.weights.load import assemble, check_own_base, check_sampling

_LOG = logging.getLogger(__name__)


class RestorationModule(StageModule):
    """A stage over the whole restorer.

    Args:
        base: ``tiny`` (ships with the package), a diffusers folder, or a Hugging Face id.
        base_vae: another folder or id for the VAE, e.g. the fp16-safe one; None takes the base's own.
        network: sizes and switches; None reads them from the folder of weights given by ``init_from`` or ``base``.
        init_from: where the stage's starting weights come from: a checkpoint of the stage before, or a folder of
            weights (``tiny``, or one made by `unildiff export`), which must be the base, too; None starts from the base
            alone.
        optimizer: see ``OptimizerConfig``.
        sampling: how pictures are sampled in validation, test and prediction; never read from a checkpoint.
        text_dropout: share of samples trained with the empty caption (supplement: 20%).
        gradient_checkpointing: recompute activations in the backward pass (non-reentrant).
        evaluation: how a test is scored; never read from a checkpoint.
    """

    model: UniLDiff
    hand_over: ClassVar[dict[str, str]] = {}
    """Rules for a checkpoint in ``init_from``: prefix in the checkpoint -> prefix in the model."""

    def __init__(
        self,
        base: str = "tiny",
        base_vae: str | None = None,
        network: NetworkConfig | None = None,
        init_from: str | None = None,
        optimizer: OptimizerConfig | None = None,
        sampling: SamplingSettings | None = None,
        text_dropout: float = 0.2,
        gradient_checkpointing: bool = False,
        evaluation: EvaluationSettings | None = None,
    ) -> None:
        check_share("text_dropout", text_dropout)
        super().__init__(optimizer or OptimizerConfig())
        self.sampling = sampling or SamplingSettings()
        self.evaluation = evaluation or EvaluationSettings()
        self.test_run: TestRun
        self.predictions: Predictions
        self.text_dropout = text_dropout
        if isinstance(network, dict):  # of a checkpoint, see StageModule
            network = network_config(network)
        check_own_base(base, init_from)
        self.model, source = assemble(base, base_vae, network, init_from, self.hand_over)
        self.started_from = ""  # what its checkpoints say of weights that they need and do not hold
        if source is not None and not all(prefix.startswith(self.trained) for prefix in self.hand_over.values()):
            self.started_from = source.fingerprint()
        self.freeze_untrained()
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()
        self.metrics = DegradationMetrics("onerestore")

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of LQ encoder, U-Net, fusion and decoder in the backward pass."""
        self.model.unet.rest.enable_gradient_checkpointing()
        for part in (self.model.lq_encoder, self.model.unet.fusion, self.model.decoder):
            part.gradient_checkpointing = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See the base class; and say what the checkpoint was started from."""
        super().on_save_checkpoint(checkpoint)
        if self.started_from:
            checkpoint[SOURCE] = self.started_from

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See the base class; and refuse weights that were trained on others than those that this stage started from."""
        super().on_load_checkpoint(checkpoint)
        where = str(self.hparams.get("init_from"))
        check_source(str(checkpoint.get(SOURCE, "")), self.started_from, where, "the checkpoint")

    def setup(self, stage: str) -> None:
        """Refuse settings that the first picture would fail on, before anything takes long."""
        super().setup(stage)
        check_sampling(self.model, self.sampling)
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(datamodule, RestorationDataModule):
            self.check_crops(datamodule.augment.crop)

    def check_crops(self, side: int) -> None:
        """Refuse training pictures that the encoders cannot halve: they are not padded, as those to be restored are.

        Raises:
            UserError: what ``side``, in pixels, may be.
        """
        multiple = self.model.downscale_factor
        if side % multiple:
            raise UserError(f"crop_size: {side}; give --data.crop_size a multiple of {multiple}")

    # --- training ----------------------------------------------------------------------------------------------

    def embed(self, captions: list[str]) -> TextEmbedding:
        """Embed captions with the frozen text encoders."""
        with torch.no_grad():
            return self.model.embed(captions)

    # --- validation, test, prediction --------------------------------------------------------------------------

    def validation_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Restore, score per degradation, and keep the first pictures for a grid."""
        image, gt = self._restore(batch), batch["gt"]
        try:
            restored = to_uint8(image, batch["name"])
        except UserError as error:  # no reason to end a training that may be the better for its next steps
            _LOG.warning("validation: %s; scored as black", error)
            restored = to_uint8(image.nan_to_num(nan=-1.0))
        self.metrics.update(restored, gt, batch["degradation"])
        if batch_idx == 0:
            self._log_grid(torch.cat([batch["lq"], restored, gt]), len(gt))

    def on_validation_epoch_end(self) -> None:
        """Log PSNR and SSIM per degradation and their averages."""
        values = self.metrics.compute()
        self.metrics.reset()
        for name, value in values.items():
            self.log(f"val/{name}", float(value), rank_zero_only=False, sync_dist=False)

    def _log_grid(self, pictures: Tensor, columns: int) -> None:
        grid = make_grid(pictures, nrow=columns)
        for logger in self.trainer.loggers:
            writer = getattr(logger, "experiment", None)
            if writer is not None and hasattr(writer, "add_image"):
                writer.add_image("val/input, restored, truth", grid, self.global_step)

    def _restore(self, batch: RestorationBatch | PredictBatch) -> Tensor:
        lq = batch_pictures(batch, "lq")
        return self.model.restore(lq, batch["caption"], batch["key"], self.sampling, self.uses_detail)

    uses_detail = True
    """Whether the stage's pictures go through the tuned decoder with DAEM."""

    def on_test_start(self) -> None:
        """Open the folder of this test: pictures, scores, how it was made."""
        protocol = getattr(self.trainer.datamodule, "protocol", "unildiff")  # type: ignore[attr-defined]
        self.test_run = TestRun(self._free_folder("test"), self.evaluation, protocol, self.device)

    def _free_folder(self, name: str) -> Path:
        """Return a folder of the run that is not there yet, one for all ranks: the first may have made it already."""
        folder = Path(self.trainer.default_root_dir) / name
        chosen: Path = self.trainer.strategy.broadcast(free_folder(folder) if self.trainer.is_global_zero else folder)
        return chosen

    def test_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Restore a picture and hand it, as 8 bits, to the scorer; with the rows of other points of the way."""
        lq, gt = batch_pictures(batch, "lq"), batch_pictures(batch, "gt")
        model, stages, detail = self.model, self.evaluation.stages, self.uses_detail
        with self.test_run.timed():
            restored = model.restoration(lq, batch["caption"], batch["key"], self.sampling, detail)
            images = {"restored": restored.image}
        latents, features = restored.latents, restored.features  # in tiles, where memory had no room for the whole
        with torch.no_grad():
            if "after_joint" in stages:
                images["after_joint"] = model.decode(latents, features, lq.shape, detail=False)
            if "no_diffusion" in stages:
                images["no_diffusion"] = model.decode(features.latents, features, lq.shape, detail)
            if "round_trip" in stages:
                truth = model.encode(model.pad(gt), features.grid)
                images["round_trip"] = model.decode(truth, features, lq.shape, detail=False)
        pictures = {stage: to_uint8(image, batch["name"]) for stage, image in images.items()}
        self.test_run.add(batch, pictures)

    def on_test_end(self) -> None:
        """Score what is left, write scores and provenance, print the means."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        sampling = asdict(self.model.with_own(self.sampling))
        name = type(datamodule).__module__.rpartition(".")[2]  # a data set is one module, named as on the command line
        rows = self.test_run.finish(
            {
                "model": str(self.trainer.ckpt_path or self.hparams.get("init_from") or self.hparams.get("base")),
                "label": f"ours: {self.hparams.get('base')}{', trained on' if self.trainer.ckpt_path else ''}",
                "stage": type(self).__name__,
                "data": name,
                "data_kind": "sample" if datamodule.is_sample else "real",
                "blind": datamodule.blind,
                "count": datamodule.counts(),
                "fingerprint": datamodule.fingerprint(),
                "seed": datamodule.test_seed,
                "steps": sampling.pop("num_inference_steps"),
                **sampling,
                "command": shlex.join(["unildiff", *sys.argv[1:]]),
                "versions": package_versions(),
                **git_state(PACKAGE),
            }
        )
        if self.trainer.is_global_zero:
            print(f"protocol {self.test_run.protocol}, {len(rows)} pictures of {name}")
            print(means_text(rows))
            for note in self.test_run.notes:
                print(note)
            print(f"scores and pictures: {self.test_run.folder}")

    def on_predict_start(self) -> None:
        """Open the folder of the restored pictures."""
        datamodule = getattr(self.trainer, "datamodule", None)
        names = datamodule.predict_names() if isinstance(datamodule, RestorationDataModule) else []
        self.predictions = Predictions(self._free_folder("restored"), names)

    def predict_step(self, batch: PredictBatch, batch_idx: int) -> Tensor:
        """Restore pictures, (B, 3, H, W) uint8, and write them as PNGs; what is not finite is named and left out."""
        images = self._restore(batch)
        pictures = [torch.empty(0, *images.shape[1:], dtype=torch.uint8, device=images.device)]
        for name, image in zip(batch["name"], images, strict=True):
            try:
                pictures.append(to_uint8(image[None], [name]))
            except UserError as error:
                _LOG.warning("not restored: %s", error)
                getattr(getattr(self.trainer, "datamodule", None), "skipped", []).append(str(error))
                continue
            self.predictions.write(name, pictures[-1][0])
        return torch.cat(pictures)

    def on_predict_end(self) -> None:
        """Wait for the last file, say where they are."""
        print(f"{self.predictions.finish()} pictures restored to {self.predictions.folder}")
