"""What the restoration stages share: building the model, its checks, validation, test and prediction.

Axis letters: B batch, H/W pixels.
"""

import logging
import shlex
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid

from unildiff.core.model import UniLDiff
from unildiff.core.moe import StepBalance
from unildiff.core.pixels import to_uint8
from unildiff.core.text import TextEmbedding
from unildiff.data.batch import PredictBatch, RestorationBatch
from unildiff.data.datamodule import RestorationDataModule
from unildiff.metrics.by_degradation import DegradationMetrics
from unildiff.metrics.protocols import chosen_protocol
from unildiff.stages.base import StageModule, batch_images, plain
from unildiff.stages.settings import StageSettings
from unildiff.stages.testing import Predictions, TestRun, free_folder, means_text
from unildiff.utils.errors import UserError
from unildiff.utils.paths import PACKAGE
from unildiff.utils.provenance import git_state, package_versions
from unildiff.weights.checkpoints import SOURCE, StageCheckpoint, check_source
from unildiff.weights.load import assemble, check_own_base, check_sampling
from unildiff.weights.lora import frozen_to_bfloat16
from unildiff.weights.precision import default_dtype, use_fast_matmul

_LOG = logging.getLogger(__name__)


class RestorationModule(StageModule):
    """A stage over the whole restorer; subclasses take the fields of their settings as keyword arguments.

    Args:
        settings: the settings of the stage.
    """

    model: UniLDiff
    initialised_from: ClassVar[dict[str, str]] = {}
    """What is copied from a checkpoint in ``init_from``: prefix in the checkpoint -> prefix in the model."""

    inference_dtype: torch.dtype | None = None
    """Dtype of the weights in test and prediction; None chooses it by the device."""

    uses_detail = True
    """Whether restored images go through the tuned decoder with DAEM."""

    def __init__(self, settings: StageSettings) -> None:
        super().__init__(settings.optimizer)
        self.balance = StepBalance()
        self.save_hyperparameters(ignore=["settings", *settings.never_stored])
        for name, value in settings.stored().items():
            self.hparams.setdefault(name, value)
        self.settings = settings
        self.test_run: TestRun
        self.predictions: Predictions
        check_own_base(settings.base, settings.init_from, self.trained)
        self.model, source = self.build_model()
        self.started_from = ""  # fingerprint of a checkpoint whose weights this stage needs and does not store
        if source is not None and not all(part.startswith(self.trained) for part in self.initialised_from.values()):
            self.started_from = source.fingerprint()
        self.freeze_untrained()
        if settings.gradient_checkpointing:
            self.enable_gradient_checkpointing()
        self.metrics = DegradationMetrics(settings.evaluation.protocol or "unildiff")

    def build_model(self) -> tuple[UniLDiff, StageCheckpoint | None]:
        """Return the model that the stage starts from and the checkpoint it was filled from; planning overrides this."""
        settings = self.settings
        return assemble(settings.base, settings.base_vae, settings.network, settings.init_from, self.initialised_from)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of LQ encoder, U-Net, fusion and decoder in the backward pass."""
        self.model.unet.rest.enable_gradient_checkpointing()
        for part in (self.model.lq_encoder, self.model.unet.fusion, self.model.decoder):
            part.gradient_checkpointing = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See the base class. Also store which checkpoint this stage started from."""
        super().on_save_checkpoint(checkpoint)
        if self.started_from:
            checkpoint[SOURCE] = self.started_from

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See the base class. Also refuse weights that were trained on top of others than this stage started from."""
        super().on_load_checkpoint(checkpoint)
        where = str(self.hparams.get("init_from"))
        check_source(str(checkpoint.get(SOURCE, "")), self.started_from, where, "the checkpoint")

    def setup(self, stage: str) -> None:
        """Refuse settings that the first image would fail on, and store frozen weights in bfloat16 where that is requested."""
        super().setup(stage)
        check_sampling(self.model, self.settings.sampling)
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, RestorationDataModule):
            evaluation = self.settings.evaluation
            names = evaluation.metrics if stage == "test" else ("psnr", "ssim")
            self.metrics = DegradationMetrics(chosen_protocol(evaluation.protocol, datamodule.protocol), names)
            self._warn_without_captions(stage, datamodule)
        if stage != "fit":
            return
        if isinstance(datamodule, RestorationDataModule):
            self.check_crops(datamodule.augment.crop)
        if self.frozen_dtype != "float32":
            self._store_frozen_in_bfloat16()

    @property
    def frozen_dtype(self) -> str:
        """Dtype of the frozen weights during training."""
        return self.settings.frozen_dtype

    def _store_frozen_in_bfloat16(self) -> None:
        if self.trainer.precision != "bf16-mixed":
            raise UserError(
                f"frozen_dtype: bfloat16 needs --trainer.precision bf16-mixed, not {self.trainer.precision}; give that, "
                "or --model.frozen_dtype float32"
            )
        frozen_to_bfloat16(self.model)

    def _warn_without_captions(self, stage: str, datamodule: RestorationDataModule) -> None:
        """Warn once where guidance and text attention can have no effect."""
        if not self.model.config.use_text or stage not in ("fit", "test") or not self.trainer.is_global_zero:
            return
        try:
            captioned = any(datamodule.listed_captions())
        except UserError:  # captions that are made together with the images
            return
        if not captioned:
            scale = self.settings.sampling.guidance_scale
            effect = f"guidance {scale:g} has no effect" if stage == "test" else "text has no effect on training"
            _LOG.warning("captions: no image has one, so %s; `unildiff data caption` makes them", effect)

    def check_crops(self, side: int) -> None:
        """Refuse training images that the encoders cannot halve: unlike images to restore, they are not padded.

        Raises:
            UserError: ``side``, in pixels, does not fit.
        """
        multiple = self.model.downscale_factor
        if side % multiple:
            raise UserError(f"crop_size: {side}; give --data.crop_size a multiple of {multiple}")

    # --- training ----------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Let a split model (FSDP2) reduce its gradients only in the last micro-batch of an optimiser step."""
        if self.device_mesh is not None:
            from unildiff.stages.sharding import synchronise_gradients  # needs torch >= 2.6

            synchronise_gradients(self.model, not self.trainer.fit_loop._should_accumulate())

    def embed(self, captions: list[str]) -> TextEmbedding:
        """Embed captions with the frozen text encoders."""
        with torch.no_grad():
            return self.model.embed(captions)

    # --- validation, test, prediction --------------------------------------------------------------------------

    def validation_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Restore, score per degradation, and log the first images as a grid."""
        image, gt = self._restore(batch), batch["gt"]
        try:
            restored = to_uint8(image, batch["name"])
        except UserError as error:  # not a reason to end the training, which may recover in its next steps
            _LOG.warning("validation: %s; scored as black", error)
            restored = to_uint8(image.nan_to_num(nan=-1.0))
        self.metrics.update(restored, gt, batch["degradation"])
        if batch_idx == 0:
            self._log_grid(torch.cat([batch["lq"], restored, gt]), len(gt))

    def on_validation_epoch_end(self) -> None:
        """Log PSNR and SSIM per degradation and their averages."""
        self._log_metrics("val")

    def _log_metrics(self, stage: str) -> dict[str, float]:
        """Log and return the means over all ranks, which ``DegradationMetrics`` has gathered."""
        with warnings.catch_warnings():  # images were added by their scores, or this rank has none
            warnings.filterwarnings("ignore", message="The ``compute`` method")
            values = {f"{stage}/{name}": float(value) for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        self.log_dict(values, sync_dist=False)
        return values

    def _log_grid(self, images: Tensor, columns: int) -> None:
        grid = make_grid(images, nrow=columns)
        for logger in self.trainer.loggers:
            writer = getattr(logger, "experiment", None)
            if writer is not None and hasattr(writer, "add_image"):
                writer.add_image("val/input, restored, ground truth", grid, self.global_step)

    def use_inference_dtype(self) -> None:
        """Convert the weights to the dtype for inference on this device, as `unildiff restore` does."""
        use_fast_matmul(self.device)
        dtype = self.inference_dtype or default_dtype(self.device)
        if dtype != torch.float32:
            self.model.to(dtype)
        _LOG.info("inference in %s on %s", str(dtype).removeprefix("torch."), self.device)

    def _lq(self, batch: RestorationBatch | PredictBatch) -> Tensor:
        return batch_images(batch, "lq").to(self.model.vae.dtype)

    def _restore(self, batch: RestorationBatch | PredictBatch) -> Tensor:
        lq = self._lq(batch)
        return self.model.restore(lq, batch["caption"], batch["key"], self.settings.sampling, self.uses_detail)

    def on_test_start(self) -> None:
        """Create the output folder of this test run (images, scores, provenance)."""
        self.use_inference_dtype()
        protocol = getattr(self.trainer.datamodule, "protocol", "unildiff")  # type: ignore[attr-defined]
        self.test_run = TestRun(self._free_folder("test"), self.settings.evaluation, protocol, self.device)

    def _free_folder(self, name: str) -> Path:
        """Return a new folder of the run, the same on all ranks: rank 0 may have created it already."""
        folder = Path(self.trainer.default_root_dir) / name
        chosen: Path = self.trainer.strategy.broadcast(free_folder(folder) if self.trainer.is_global_zero else folder)
        return chosen

    def test_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Restore an image, and other points of the pipeline where requested, and pass it to the scorer as 8 bits."""
        lq, gt = self._lq(batch), batch_images(batch, "gt")
        model, stages, detail = self.model, self.settings.evaluation.stages, self.uses_detail
        with self.test_run.timed():
            restored = model.restoration(lq, batch["caption"], batch["key"], self.settings.sampling, detail)
            images = {"restored": restored.image}
        latents, features = restored.latents, restored.features  # tiled where the whole image did not fit into memory
        with torch.no_grad():
            if "after_joint" in stages:
                images["after_joint"] = model.decode(latents, features, lq.shape, detail=False)
            if "no_diffusion" in stages:
                images["no_diffusion"] = model.decode(features.latents, features, lq.shape, detail)
            if "round_trip" in stages:
                gt_latents = model.encode(model.pad(gt.to(lq.dtype)), features.grid)
                images["round_trip"] = model.decode(gt_latents, features, lq.shape, detail=False)
        self.test_run.add(batch, {stage: to_uint8(image, batch["name"]) for stage, image in images.items()})

    def on_test_epoch_end(self) -> None:
        """Log the means of the test and leave them with the hyper-parameters in the logger."""
        for row in self.test_run.evaluators["restored"].rows():
            scores = {name: value for name, value in row.items() if not isinstance(value, str)}
            self.metrics.add_scores(str(row["degradation"]), scores)
        values = self._log_metrics("test")
        means = {name: value for name, value in values.items() if name.endswith("/avg")}
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(plain(dict(self.hparams)), means)

    def on_test_end(self) -> None:
        """Wait for the last scores, write scores and provenance, print the means."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        sampling = asdict(self.model.with_own(self.settings.sampling))
        name = datamodule.data_name
        rows = self.test_run.finish(
            {
                "model": str(self.trainer.ckpt_path or self.hparams.get("init_from") or self.hparams.get("base")),
                "label": f"UniLDiff ({Path(str(self.hparams.get('base'))).name}{', trained' if self.trainer.ckpt_path else ''})",
                "stage": type(self).__name__,
                "data": name,
                "data_kind": datamodule.data_kind,
                "published": datamodule.published,
                "blind": datamodule.blind,
                "count": datamodule.counts(),
                "fingerprint": datamodule.fingerprint(),
                "seed": datamodule.test_seed,
                "steps": sampling.pop("num_inference_steps"),
                "first_timestep": float(self.model.with_own(self.settings.sampling).timesteps(self.model.schedule)[0]),
                "uses_text": self.model.config.use_text,
                "dtype": str(self.model.vae.dtype).removeprefix("torch."),
                **sampling,
                "command": shlex.join(["unildiff", *sys.argv[1:]]),
                "versions": package_versions(),
                **git_state(PACKAGE),
            }
        )
        if self.trainer.is_global_zero:
            from unildiff.results.specs import table_command  # pandas is not needed for training

            print(f"protocol {self.test_run.protocol}, {len(rows)} images of {name}")
            print(means_text(rows))
            for note in self.test_run.notes:
                print(note)
            print(f"scores and images: {self.test_run.folder}")
            print(f"as a table: {table_command(self.test_run.folder)}")

    def on_predict_start(self) -> None:
        """Create the folder of the restored images."""
        self.use_inference_dtype()
        datamodule = getattr(self.trainer, "datamodule", None)
        names = datamodule.predict_names() if isinstance(datamodule, RestorationDataModule) else []
        self.predictions = Predictions(self._free_folder("restored"), names)

    def predict_step(self, batch: PredictBatch, batch_idx: int) -> Tensor:
        """Restore images, (B, 3, H, W) uint8, and write them as PNGs; images that are not finite are reported and skipped."""
        images = self._restore(batch)
        finite = [torch.empty(0, *images.shape[1:], dtype=torch.uint8, device=images.device)]
        for name, image in zip(batch["name"], images, strict=True):
            try:
                finite.append(to_uint8(image[None], [name]))
            except UserError as error:
                _LOG.warning("not restored: %s", error)
                getattr(getattr(self.trainer, "datamodule", None), "skipped", []).append(str(error))
                continue
            self.predictions.write(name, finite[-1][0])
        return torch.cat(finite)

    def on_predict_end(self) -> None:
        """Wait for the last file and print where the images are."""
        print(f"{self.predictions.finish()} images restored to {self.predictions.folder}")
