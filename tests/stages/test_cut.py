"""The decoder stage's windows: which steps have them, and that each is restored and scored as a picture of its own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stages.steps import make_batch, make_stage, wake, without_trainer
from unildiff.data.batch import cut_batch
from unildiff.errors import UserError
from unildiff.stages.base import StageModule


def test_windows_are_numpys_slices_row_by_row_with_keys_of_their_own() -> None:
    batch = make_batch((1, 2), 24)
    cut = cut_batch(batch, 2)
    for field in ("lq", "gt"):
        pictures = batch[field].numpy()  # type: ignore[literal-required]
        expected = [np.hsplit(row, 2) for picture in pictures for row in np.split(picture.transpose(1, 2, 0), 2)]
        windows = [window.transpose(2, 0, 1) for row in expected for window in row]
        np.testing.assert_array_equal(cut[field].numpy(), np.stack(windows))  # type: ignore[literal-required]
    assert cut["caption"] == [caption for caption in batch["caption"] for _ in range(4)]
    assert cut["name"] == [f"{name}_{window}" for name in batch["name"] for window in range(4)]
    assert cut["degradation"] == ["rain"] * 8
    keys = cut["key"].tolist()
    assert cut["key"].dtype == torch.int64 and len({*keys, 1, 2}) == 10
    assert cut_batch(make_batch((2,), 24), 2)["key"].tolist() == keys[4:]  # whatever else is in the batch
    with pytest.raises(ValueError, match="24x24 cannot be cut into 5x5"):
        cut_batch(batch, 5)


def loss_of(module: StageModule, step: int, batch: object) -> torch.Tensor:
    without_trainer(module)
    module.trainer.global_step, module.trainer.log_every_n_steps = step, 100  # type: ignore[misc]
    with torch.no_grad():
        return module.training_step(batch, 0)  # type: ignore[operator, no-any-return]


def test_every_third_step_is_the_step_of_a_batch_of_windows(base_folder: Path) -> None:
    cutting, whole = (make_stage("decoder", base_folder, cut_every=every) for every in (3, 0))
    for module in (cutting, whole):
        wake(module)
    batch = make_batch()
    for step in (1, 2, 3, 4, 6):
        expected = loss_of(whole, step, batch if step % 3 else cut_batch(batch, 2))
        assert torch.equal(loss_of(cutting, step, batch), expected)
    assert loss_of(whole, 3, batch) != loss_of(cutting, 3, batch)


def test_what_cannot_be_cut_is_one_line(base_folder: Path) -> None:
    module = make_stage("decoder", base_folder, cut_every=1)
    multiple = 4 * module.model.downscale_factor
    with pytest.raises(UserError, match=f"crops of {multiple + 4}x{multiple + 4}.*multiple of {multiple}, or"):
        loss_of(module, 1, make_batch(size=multiple + 4))
    with pytest.raises(UserError, match="cut_every: 2, but cached latents"):
        make_stage("decoder", base_folder, cut_every=2, latents="cached")
