"""Test another method's model on a dataset, with the folder, scores and provenance of `unildiff test`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from unildiff.data.batch import collate
from unildiff.metrics.rows import Row
from unildiff.rivals.load import Rival
from unildiff.rivals.tiles import restore_image
from unildiff.stages.settings import EvaluationSettings
from unildiff.stages.testing import TestRun, free_folder
from unildiff.utils import datamodules
from unildiff.utils.errors import UserError
from unildiff.utils.parallel import progress
from unildiff.utils.paths import PACKAGE
from unildiff.utils.provenance import git_state, package_versions


def run_rival(
    rival: Rival,
    data: str,
    root: Path | None,
    folder: Path,
    settings: EvaluationSettings,
    device: torch.device,
    tile_size: int | None = None,
    seed: int = 0,
    label: str | None = None,
) -> tuple[Sequence[Row], TestRun]:
    """Restore and score every test image of a dataset.

    Args:
        rival: The model.
        data: Short name of the dataset.
        root: Its folder; None: its own.
        folder: Folder of the run; the test is written to its subfolder `test`.
        settings: How to score.
        device: Device of the model.
        tile_size: See :func:`unildiff.rivals.tiles.restore_image`.
        seed: Seed of random test degradations (noise), part of the protocol.
        label: Name of the row in tables; None: the model's.

    Returns:
        One row per image, and the finished test.

    Raises:
        UserError: The dataset cannot be read, or the model fails.
    """
    given = {} if root is None else {"root": str(root)}
    try:
        datamodule = datamodules.constructor(data)(test_seed=seed, num_workers=0, **given)
    except TypeError:
        raise UserError(f"test: {data} takes no root; leave out --data.root") from None
    test = datamodule.test_set()
    run = TestRun(free_folder(folder / "test"), settings, datamodule.protocol, device)
    for index in progress(range(len(test)), len(test), f"testing {rival.label}"):
        batch = collate([test[index]])
        batch["caption"] = [""]  # rivals do not see captions, which could name the degradation
        image = batch["lq"].to(device).float() / 255
        with run.timed():
            restored = restore_image(rival, image, tile_size)
        run.add(batch, {"restored": (restored * 255).round().to(torch.uint8).cpu()})  # type: ignore[arg-type]
    rows = run.finish(
        {
            "model": rival.name,
            "label": label or rival.label,
            "stage": "rival",
            "data": data,
            "data_kind": datamodule.data_kind,
            "published": datamodule.published,
            "blind": datamodule.blind,
            "count": datamodule.counts(),
            "fingerprint": datamodule.fingerprint(),
            "seed": datamodule.test_seed,
            "tile_size": tile_size,
            **rival.about,
            "command": shlex.join(["unildiff", *sys.argv[1:]]),
            "versions": package_versions(),
            **git_state(PACKAGE),
        }
    )
    return rows, run
