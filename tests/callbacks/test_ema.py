"""The average is updated correctly, holds only trained weights, and is used in validation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from tests.callbacks.toy import ToyData, ToyModule, trainer
from unildiff.callbacks import Checkpointing, ExponentialMovingAverage
from unildiff.utils.errors import UserError


def test_first_three_updates_by_hand() -> None:
    # start 0, weights 1, 1, 3. Decays 1/10, 2/11, 3/12:
    # 0 -> 0.1 * 0 + 0.9 * 1 = 0.9 -> 2/11 * 0.9 + 9/11 * 1 = 10.8/11 = 0.981818 -> 0.25 * 0.981818 + 0.75 * 3 = 2.495455
    ema = ExponentialMovingAverage(decay=0.9)
    ema.average = {"w": torch.zeros(1)}
    seen = []
    for weight in (1.0, 1.0, 3.0):
        ema.update({"w": torch.tensor([weight])})
        seen.append(ema.average["w"].item())
    assert seen == pytest.approx([0.9, 0.9818182, 2.4954545])


def test_agrees_with_diffusers() -> None:
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(5))
    ema = ExponentialMovingAverage(decay=0.7)
    ema.average = {"w": weights.detach().clone()}
    theirs = EMAModel([weights], decay=0.7)
    theirs.optimization_step = 1  # theirs copies the weights at its first step; ours starts as a copy
    for _ in range(60):
        weights.data += torch.randn(5)
        ema.update({"w": weights})
        theirs.step([weights])
    assert torch.allclose(ema.average["w"], theirs.shadow_params[0], atol=1e-6)
    assert ema.current_decay() == 0.7  # the limit: (1 + 60) / (10 + 60) = 0.871


def test_a_bfloat16_average_keeps_moving() -> None:
    # A step moves by 1e-4 of a difference of 0.5; bfloat16 has 2^-8 = 4e-3 between 0.5 and 1.
    ema = ExponentialMovingAverage(decay=0.9999, dtype="bfloat16")
    ema.updates = 10**6  # warm-up over
    ema.average = {"w": torch.full((20_000,), 0.5, dtype=torch.bfloat16)}
    for _ in range(1000):
        ema.update({"w": torch.ones(20_000)})
    # 1 - 0.5 * 0.9999^1000 = 0.54758. Noise of an element is about a unit (4e-3), of the mean 3e-5.
    assert ema.average["w"].float().mean().item() == pytest.approx(0.54758, abs=2e-4)
    assert ema.average["w"].dtype == torch.bfloat16


def test_several_steps_at_once_multiply_their_decays(tmp_path: Path) -> None:
    # With constant weights, three updates and one over three steps are equal.
    one, three = ExponentialMovingAverage(decay=0.9), ExponentialMovingAverage(decay=0.9)
    for ema in (one, three):
        ema.average = {"w": torch.zeros(1)}
    for _ in range(3):
        one.update({"w": torch.ones(1)})
    three.update({"w": torch.ones(1)}, steps=3)
    assert three.average["w"].item() == pytest.approx(one.average["w"].item())
    assert three.updates == one.updates == 3
    module, sparse = ToyModule(), ExponentialMovingAverage(every_n_steps=2)
    fit(tmp_path, module, sparse)  # five steps: the fifth is not averaged yet
    assert sparse.updates == 4


def test_many_small_tensors_are_averaged_in_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(3, 2), (), (5,), (2, 2, 2)]
    weights = {str(index): torch.randn(shape) for index, shape in enumerate(shapes)}
    ema = ExponentialMovingAverage(decay=0.0, dtype="bfloat16")
    for size in (1, 8, 1000):  # as many chunks as tensors, several, one
        monkeypatch.setattr("unildiff.callbacks.ema._CHUNK", size)
        ema.average = {name: torch.zeros(value.shape, dtype=torch.bfloat16) for name, value in weights.items()}
        ema.update(weights)
        for name, value in weights.items():
            torch.testing.assert_close(ema.average[name].float(), value, rtol=2**-7, atol=0)


def test_swapping_keeps_the_storage() -> None:
    module, ema = ToyModule(), ExponentialMovingAverage()
    place, trained = module.trained.weight.data_ptr(), module.trained.weight.detach().clone()
    ema.average = {"trained.weight": torch.ones_like(trained)}
    ema.on_validation_start(None, module)  # type: ignore[arg-type]
    assert module.trained.weight.data_ptr() == place and (module.trained.weight == 1).all()
    ema.on_validation_end(None, module)  # type: ignore[arg-type]
    assert module.trained.weight.data_ptr() == place and torch.equal(module.trained.weight, trained)


def fit(folder: Path, module: ToyModule, ema: ExponentialMovingAverage, **settings: Any) -> None:
    loop = trainer(folder, [ema, Checkpointing()], **({"max_steps": 5} | settings))
    loop.fit(module, datamodule=ToyData(validation=1))


def test_only_what_is_trained_is_averaged_and_saved(tmp_path: Path) -> None:
    module, ema = ToyModule(), ExponentialMovingAverage()
    start = module.trained.weight.detach().clone()
    fit(tmp_path, module, ema)
    assert set(ema.average) == {"trained.weight", "trained.bias"}
    assert not torch.equal(ema.average["trained.weight"], start)
    assert not torch.equal(ema.average["trained.weight"], module.trained.weight)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert set(checkpoint["ema_state_dict"]) == {"trained.weight", "trained.bias"}
    assert torch.equal(checkpoint["ema_state_dict"]["trained.weight"], ema.average["trained.weight"])
    assert torch.equal(checkpoint["state_dict"]["trained.weight"], module.trained.weight)


@pytest.mark.parametrize(("accumulate", "updates"), [(1, 5), (3, 5)])
def test_updates_once_per_optimiser_step(tmp_path: Path, accumulate: int, updates: int) -> None:
    ema = ExponentialMovingAverage()
    fit(tmp_path, ToyModule(), ema, accumulate_grad_batches=accumulate)
    assert ema.updates == updates


def test_validation_uses_the_average_and_training_continues_with_the_weights(tmp_path: Path) -> None:
    module, ema = ToyModule(), ExponentialMovingAverage()
    fit(tmp_path / "validated", module, ema, max_steps=6, val_check_interval=6)
    (seen,) = module.weights_in_validation
    assert torch.equal(seen, ema.average["trained.weight"])
    plain = ToyModule()
    trainer(tmp_path / "plain", [Checkpointing()], max_steps=6).fit(plain, datamodule=ToyData())
    assert torch.equal(plain.trained.weight, module.trained.weight)


def test_a_test_of_a_checkpoint_uses_the_average(tmp_path: Path) -> None:
    ema = ExponentialMovingAverage()
    fit(tmp_path, ToyModule(), ema)
    module = ToyModule()
    loop = trainer(tmp_path, [ExponentialMovingAverage(), Checkpointing()])
    loop.test(module, datamodule=ToyData(), ckpt_path=str(tmp_path / "checkpoints/last.ckpt"), verbose=False)
    assert torch.equal(module.weights_in_validation[0], ema.average["trained.weight"])


def test_a_checkpoint_of_a_crashed_validation_holds_the_weights(tmp_path: Path) -> None:
    class Breaks(ToyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise ValueError("in validation")

    module, ema = Breaks(), ExponentialMovingAverage()
    with pytest.raises(ValueError, match="in validation"):
        fit(tmp_path, module, ema, max_steps=6, val_check_interval=6)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert not torch.equal(checkpoint["state_dict"]["trained.weight"], ema.average["trained.weight"])
    assert torch.equal(checkpoint["state_dict"]["trained.weight"], module.trained.weight)


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"decay is 1\.0; it must be"):
        ExponentialMovingAverage(decay=1.0)
    ema = ExponentialMovingAverage()
    ema.average = {"elsewhere.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"elsewhere\.weight"):
        ema.on_fit_start(None, ToyModule())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"elsewhere\.weight"):
        ema.on_test_start(None, ToyModule())  # type: ignore[arg-type]
