"""The decoder stage's quarters of crops: which steps use them, and that each is treated as a separate image."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule

from tests.stages.steps import make_batch, make_loader, make_stage, make_trainer, wake, without_trainer
from unildiff.data.batch import cut_batch
from unildiff.data.datamodule import RestorationDataModule
from unildiff.stages.base import StageModule
from unildiff.utils.errors import UserError


def test_pieces_are_numpys_slices_row_by_row_with_their_own_keys() -> None:
    batch = make_batch((1, 2), 24)
    cut = cut_batch(batch, 2)
    for field in ("lq", "gt"):
        images = batch[field].numpy()  # type: ignore[literal-required]
        expected = [np.hsplit(row, 2) for image in images for row in np.split(image.transpose(1, 2, 0), 2)]
        windows = [window.transpose(2, 0, 1) for row in expected for window in row]
        np.testing.assert_array_equal(cut[field].numpy(), np.stack(windows))  # type: ignore[literal-required]
    assert cut["caption"] == [caption for caption in batch["caption"] for _ in range(4)]
    assert cut["name"] == [f"{name}_{window}" for name in batch["name"] for window in range(4)]
    assert cut["degradation"] == ["rain"] * 8
    keys = cut["key"].tolist()
    assert cut["key"].dtype == torch.int64 and len({*keys, 1, 2}) == 10
    assert cut_batch(make_batch((2,), 24), 2)["key"].tolist() == keys[4:]  # independent of the rest of the batch
    with pytest.raises(ValueError, match="24x24 cannot be cut into 5x5 pieces"):
        cut_batch(batch, 5)


def loss_of(module: StageModule, step: int, batch: object) -> torch.Tensor:
    without_trainer(module)
    module.trainer.global_step = step  # type: ignore[misc]
    module.log_scalars = lambda values: None  # type: ignore[method-assign]
    with torch.no_grad():
        return module.training_step(batch, 0)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("latents", ["one_step", "sample"])
def test_every_third_step_is_the_step_of_a_batch_of_quarters(latents: str, base_folder: Path) -> None:
    cutting, whole = (make_stage("decoder", base_folder, cut_every=every, latents=latents) for every in (3, 0))
    for module in (cutting, whole):
        wake(module)
    batch = make_batch()
    for step in range(1, 7):
        expected = loss_of(whole, step, cut_batch(batch, 2) if step in (2, 5) else batch)
        assert torch.equal(loss_of(cutting, step, batch), expected)
    assert loss_of(whole, 2, batch) != loss_of(cutting, 2, batch)


@pytest.mark.parametrize(
    ("cut_every", "log_every", "whole", "quarters"),
    [
        (0, 4, [0, 4, 8], []),
        (1, 4, [], [0, 4, 8]),
        (2, 1, [0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]),
        (2, 4, [0, 4, 8], [1, 5, 9]),  # no quarters in steps that log scalars; they log in their next step
        (4, 4, [0, 4, 8], [3, 7, 11]),
        (5, 4, [0, 5, 8], [4, 9]),  # step 4 is one of quarters
    ],
)
def test_losses_of_quarters_are_logged_as_often_under_their_own_names(
    cut_every: int, log_every: int, whole: list[int], quarters: list[int], base_folder: Path
) -> None:
    module = make_stage("decoder", base_folder, cut_every=cut_every)
    without_trainer(module)
    module.trainer.log_every_n_steps = log_every  # type: ignore[attr-defined]
    seen: dict[int, set[str]] = {}
    module.log_scalars = lambda values: seen.update({module.global_step: set(values)})  # type: ignore[method-assign]
    for step in range(12):
        module.trainer.global_step = step  # type: ignore[misc]
        with torch.no_grad():
            module.training_step(make_batch((1,)), 0)  # type: ignore[call-arg, operator]
    of_quarters = {step for step, names in seen.items() if all(name.endswith("_of_quarters") for name in names)}
    assert sorted(of_quarters) == quarters and sorted({*seen} - of_quarters) == whole
    assert all("loss/ssim" in seen[step] for step in whole) and all(
        "loss/ssim_of_quarters" in seen[s] for s in quarters
    )


def test_accumulated_micro_batches_are_cut_alike_and_a_resumed_run_keeps_the_rhythm(
    base_folder: Path, tmp_path: Path
) -> None:
    def run(max_steps: int, checkpoint: str | None = None) -> tuple[StageModule, list[tuple[int, int]]]:
        module = make_stage("decoder", base_folder, cut_every=2)
        seen: list[tuple[int, int]] = []
        module.model.decoder.register_forward_pre_hook(lambda _, args: seen.append((module.global_step, len(args[0]))))
        trainer = make_trainer(tmp_path, max_steps=max_steps, accumulate_grad_batches=2)
        trainer.fit(module, make_loader([make_batch((number,)) for number in range(1, 9)]), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{max_steps}.ckpt")
        return module, seen

    _, straight = run(4)
    assert straight == [(step, 4 if step % 2 else 1) for step in range(4) for _ in range(2)]
    run(3)
    _, resumed = run(4, str(tmp_path / "3.ckpt"))
    assert resumed == straight[6:]


def test_impossible_cuts_are_refused_in_one_line(base_folder: Path) -> None:
    module = make_stage("decoder", base_folder, cut_every=1)
    multiple = 4 * module.model.downscale_factor
    wrong = multiple + 4
    with pytest.raises(UserError, match=f"crops of {wrong}x{wrong}.*multiple of {multiple}, or"):
        loss_of(module, 1, make_batch(size=wrong))
    half = multiple // 2
    module.trainer = SimpleNamespace(
        datamodule=RestorationDataModule(crop_size=half), precision="32-true", is_global_zero=True
    )  # type: ignore[assignment]
    with pytest.raises(UserError, match=f"crops of {half}x{half}"):
        module.setup("fit")
    module.trainer = SimpleNamespace(datamodule=LightningDataModule(), precision="32-true", is_global_zero=True)  # type: ignore[assignment]
    module.setup("fit")  # not one of our datamodules: its batches are checked instead
    with pytest.raises(UserError, match="cut_every: 2, but cached latents"):
        make_stage("decoder", base_folder, cut_every=2, latents="cached")
    with pytest.raises(UserError, match="cut_every is -1; it must be a whole number between 0 and"):
        make_stage("decoder", base_folder, cut_every=-1)
