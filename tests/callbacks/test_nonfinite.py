"""A step that is not finite changes neither weights nor optimiser; too many end the run and name the images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.callbacks.toy import ToyData, ToyModule, trainer
from unildiff.callbacks import Checkpointing, NonFiniteGuard
from unildiff.utils.errors import UserError


class Poisoned(ToyModule):
    """Multiplies the loss of chosen batches; 0 * inf in the graph gives NaN gradients."""

    def __init__(self, batches: set[int], factor: float) -> None:
        super().__init__()
        self.batches, self.factor = batches, factor
        self.states: list[dict[str, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * self.factor if self.trainer.fit_loop.total_batch_idx in self.batches else loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        state = {"weight": self.trained.weight.detach().clone()}
        if moments := self.optimizers().state[self.trained.weight]:
            state |= {"first": moments["exp_avg"].clone(), "steps": moments["step"].clone()}
        self.states.append(state)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_bad_step_changes_nothing(tmp_path: Path, factor: float) -> None:
    module, guard = Poisoned({3}, factor), NonFiniteGuard()
    trainer(tmp_path, [guard, Checkpointing()], max_steps=6).fit(module, datamodule=ToyData())
    before, after, later = module.states[2], module.states[3], module.states[4]
    assert all(torch.equal(before[name], after[name]) for name in before)  # no decay, no momentum, no step counted
    assert not torch.equal(after["weight"], later["weight"])
    assert later["steps"] == 4
    assert (guard.skipped, guard.in_a_row) == (1, 0)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_an_infinite_loss_with_finite_gradients_counts_too(tmp_path: Path) -> None:
    class Offset(ToyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + float("inf")

    guard = NonFiniteGuard()
    trainer(tmp_path, [guard], max_steps=2, enable_checkpointing=False).fit(Offset(), datamodule=ToyData())
    assert guard.skipped == 2


def test_one_bad_batch_skips_its_whole_accumulated_step(tmp_path: Path) -> None:
    module, guard = Poisoned({4}, float("nan")), NonFiniteGuard()
    loop = trainer(tmp_path, [guard, Checkpointing()], max_steps=3, accumulate_grad_batches=3)
    loop.fit(module, datamodule=ToyData())
    assert guard.skipped == 1  # batches 3, 4, 5 are the second step
    assert torch.equal(module.states[2]["weight"], module.states[5]["weight"])


def test_too_many_in_a_row_stop_with_the_names_and_a_checkpoint(tmp_path: Path) -> None:
    module = Poisoned({1, 3, 4, 5}, float("nan"))
    with pytest.raises(UserError) as caught:
        loop = trainer(tmp_path, [NonFiniteGuard(limit=3), Checkpointing()], max_steps=20)
        loop.fit(module, datamodule=ToyData())
    # batch 5 holds images 10 and 11; batch 1 was followed by a good one
    assert "3 steps in a row" in str(caught.value)
    assert "rain/p10, rain/p11" in str(caught.value)
    assert "\n" not in str(caught.value)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 5
    assert checkpoint["callbacks"]["NonFiniteGuard"] == {"skipped": 4, "in_a_row": 3}


def test_counts_are_resumed(tmp_path: Path) -> None:
    trainer(tmp_path, [NonFiniteGuard(), Checkpointing()], max_steps=4).fit(Poisoned({2}, float("nan")), ToyData())
    guard = NonFiniteGuard()
    loop = trainer(tmp_path, [guard, Checkpointing()], max_steps=5)
    loop.fit(ToyModule(), datamodule=ToyData(), ckpt_path=str(tmp_path / "checkpoints/last.ckpt"))
    assert guard.skipped == 1
