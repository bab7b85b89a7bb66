"""Captions embedded once and kept on disk, so that the text encoders need no memory while a stage trains."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from unildiff.core.text import TextEncoders
from unildiff.data.datamodule import RestorationDataModule
from unildiff.utils.errors import UserError
from unildiff.utils.fingerprints import compare_note
from unildiff.utils.parallel import progress
from unildiff.weights.text_cache import CachedText, TextCache, text_fingerprint

BATCH = 64
"""Captions embedded at once, and kept in a file of 40 MB at SDXL's size (our choice)."""
_OPTION = "folder of CaptionCache"


class CaptionCache(Callback):
    """Embeds all captions of the training and validation data before training, each once; the text encoders are then freed.

    Captions embedded by an earlier run are reused; several processes share the work. Validation and training
    with dropped captions need the empty caption, which is always included. Tests and predictions do not use the cache.
    """

    def __init__(self, folder: str = "cache/captions") -> None:
        """Args: folder: of the cache, on a disk that all machines of the run see; 0.6 MB a caption at SDXL's size."""
        super().__init__()
        self.folder = Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fill the cache and put it in the place of the encoders.

        Raises:
            UserError: the cache is of other encoders, the stage trains its encoders, or the data cannot list its captions.
        """
        model: Any = pl_module.model
        text = model.text
        if stage != "fit" or isinstance(text, CachedText):
            return
        if any(parameter.requires_grad for parameter in text.parameters()):
            raise UserError(f"captions: {type(pl_module).__name__} trains its text encoders; leave CaptionCache out")
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, RestorationDataModule):
            raise UserError("captions: CaptionCache needs a datamodule of unildiff; give --data, or leave it out")
        captions = {"", *datamodule.listed_captions()} if model.config.use_text else {""}
        fingerprint = text_fingerprint(text)
        made_by = {"text_encoders": fingerprint, "precision": str(trainer.precision)}
        compare_note(self.folder, made_by, "captions", _OPTION, trainer.is_global_zero)
        cache = TextCache(self.folder)
        cache.look()
        missing = cache.missing(captions)
        trainer.strategy.barrier("captions: listed")  # all processes have the same list before the first writes
        self._embed(trainer, text, cache, missing)
        trainer.strategy.barrier("captions: embedded")
        cache.look()
        if absent := cache.missing(captions):
            raise UserError(
                f"captions: {len(absent)} are not in {self.folder} though all processes are done; give a {_OPTION} on a "
                "disk that all machines see"
            )
        model.text = CachedText(cache, fingerprint)

    def _embed(self, trainer: Trainer, text: TextEncoders, cache: TextCache, captions: list[str]) -> None:
        chunks = [captions[first : first + BATCH] for first in range(0, len(captions), BATCH)]
        mine = chunks[trainer.global_rank :: trainer.world_size]
        if not mine:
            return
        text.to(trainer.strategy.root_device)
        for chunk in progress(mine, len(mine), "Embedding captions") if trainer.is_global_zero else mine:
            with torch.no_grad(), trainer.precision_plugin.train_step_context():
                embedding = text(chunk)
            cache.write(chunk, embedding)
