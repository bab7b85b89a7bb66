"""Settings with which a stage would fail at its first image or silently train something else are refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.stages.steps import make_batch, make_loader, make_stage, make_trainer
from unildiff.cli.main import main
from unildiff.cli.plan_inputs import parse_run
from unildiff.data.datamodule import RestorationDataModule
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.pretrain import PretrainUNetModule, PretrainVAEModule
from unildiff.utils.errors import UserError


@pytest.mark.parametrize("kind", ["alignment", "joint", "joint_lora", "decoder"])
def test_crops_must_be_divisible_by_the_encoders(kind: str, base_folder: Path) -> None:
    module = make_stage(kind, base_folder)
    side = 6 * module.model.downscale_factor
    for crop_size in (side, side + 1):
        module.trainer = SimpleNamespace(
            datamodule=RestorationDataModule(crop_size=crop_size), precision="32-true", is_global_zero=True
        )  # type: ignore[assignment]
        if crop_size == side:
            module.setup("fit")
            continue
        module.setup("test")  # images to restore are padded
        with pytest.raises(UserError, match=rf"crop_size: {side + 1}; give --data.crop_size a multiple of \d+$"):
            module.setup("fit")


@pytest.mark.parametrize(
    ("kind", "what"), [("decoder", "sampling"), ("decoder", "training_sampling"), ("joint_lora", "sampling")]
)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SamplingSettings(1001), "num_inference_steps is 1001; it must be in 1..1000"),
        (SamplingSettings(20, last_timestep=1000), "last_timestep is 1000; it must be below the sampler's first"),
    ],
)
def test_steps_must_be_those_of_the_schedule(
    kind: str, what: str, settings: SamplingSettings, message: str, base_folder: Path
) -> None:
    module = make_stage(kind, base_folder, **{what: settings})
    module.trainer = SimpleNamespace(precision="32-true")  # type: ignore[assignment]
    with pytest.raises(UserError, match=f"{what}: {message}"):
        module.setup("fit")


@pytest.mark.parametrize("share", [-0.1, 20, float("nan")])
def test_probabilities_must_be_between_0_and_1(share: float, base_folder: Path, tmp_path: Path) -> None:
    for kind in ("alignment", "joint", "decoder"):
        with pytest.raises(UserError, match=f"text_dropout is {share}; it must be a number between 0 and 1"):
            make_stage(kind, base_folder, text_dropout=share)
    for kind in ("alignment", "joint"):
        with pytest.raises(UserError, match=f"terminal_share is {share}; it must be a number between 0 and 1"):
            make_stage(kind, base_folder, terminal_share=share)
    with pytest.raises(UserError, match=f"text_dropout is {share}; it must"):
        PretrainUNetModule(str(base_folder), str(tmp_path), text_dropout=share)
    with pytest.raises(UserError, match=f"degraded_share is {share}; it must"):
        PretrainVAEModule(str(tmp_path), degraded_share=share)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_weights_are_kept_in_float32(precision: Any, base_folder: Path, tmp_path: Path) -> None:
    modules = [make_stage(kind, base_folder) for kind in ("alignment", "joint", "joint_lora", "decoder")]
    for module in (*modules, PretrainUNetModule(str(base_folder), str(tmp_path))):
        with pytest.raises(
            UserError, match=rf"^precision: {precision}, but weights are kept in float32; give --trainer"
        ):
            make_trainer(tmp_path, precision=precision, max_steps=1).fit(module, make_loader([make_batch([1])]))
    with pytest.raises(UserError, match=f"^precision: {precision}, but"):
        make_trainer(tmp_path, precision=precision).validate(modules[0], make_loader([make_batch([1])]))
    with pytest.raises(UserError, match=f"^precision: {precision}, but"):  # plan refuses what fit refuses
        parse_run(["--config", "configs/tiny/joint.yaml", f"--trainer.precision={precision}"], None)


def test_the_command_line_reports_it_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Also through `unildiff fit`, before anything is trained."""
    arguments = ["fit", "--config", "configs/tiny/alignment.yaml", "--trainer.logger=false", "--data.num_workers=0"]
    assert main([*arguments, "--data.crop_size=100"]) == 2
    assert "crop_size: 100; give --data.crop_size a multiple of 8" in capfd.readouterr().err
    assert main([*arguments, "--model.text_dropout=20"]) == 2
    assert "text_dropout is 20.0; it must be a number between 0 and 1" in capfd.readouterr().err
