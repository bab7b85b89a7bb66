"""What a stage starts from: a folder of weights is a whole model."""

from pathlib import Path

import pytest
import torch

from tests.small import NETWORK, small_base, small_model
from tests.stages.steps import make_batch, make_loader, make_trainer
from unildiff.assembly import assemble, model_from_checkpoint
from unildiff.cli import main
from unildiff.core.model import UniLDiff
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.errors import UserError
from unildiff.planning.parsed import parse_run
from unildiff.stages.alignment import AlignmentModule
from unildiff.stages.joint import JointFinetuneModule


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An exported model, another base, and another VAE."""
    root = tmp_path_factory.mktemp("folders")
    small_model(seed=1).save_folder(root / "exported", torch.float32)
    small_base(seed=2).save(root / "base")
    small_base(seed=3).save(root / "vae")
    return {name: root / name for name in ("exported", "base", "vae")}


def same(first: UniLDiff, second: UniLDiff, prefix: str = "") -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a if name.startswith(prefix))


def test_a_folder_of_weights_is_taken_whole(folders: dict[str, Path]) -> None:
    exported = small_model(seed=1)
    for base in (str(folders["base"]), "no/such/base"):  # what the folder holds is not looked for elsewhere
        model, source = assemble(base, init_from=str(folders["exported"]))
        assert source is None and same(model, exported)
    model, _ = assemble(str(folders["base"]), str(folders["vae"]), init_from=str(folders["exported"]))
    other = assemble(str(folders["vae"]), network=NETWORK)[0]
    assert same(model, other, "vae.") and not same(model, exported, "vae.")
    assert all(same(model, exported, part) for part in ("unet.", "lq_encoder.", "decoder.", "text."))


def test_a_stage_from_a_folder_is_that_model_again(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alignment trains a part of the U-Net; the rest is the folder's, also for who reads the checkpoint."""
    settings = {"base": str(folders["base"]), "init_from": str(folders["exported"])}
    module = AlignmentModule(**settings, sampling=SamplingSettings(1))  # type: ignore[arg-type]
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(module, make_loader([make_batch([1, 2])]))
    trainer.save_checkpoint(tmp_path / "alignment.ckpt")
    assert same(model_from_checkpoint(tmp_path / "alignment.ckpt")[0], module.model)
    following = JointFinetuneModule(**settings | {"init_from": str(tmp_path / "alignment.ckpt")}, network=NETWORK)  # type: ignore[arg-type]
    assert same(following.model, module.model, "unet.fusion.")
    folders["exported"].rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"was started from .*exported, which is not there; give its place with --init"):
        model_from_checkpoint(tmp_path / "alignment.ckpt")
    found, _ = model_from_checkpoint(tmp_path / "alignment.ckpt", init_from=str(tmp_path / "moved"))
    (tmp_path / "moved").rename(folders["exported"])
    assert same(found, module.model)
    assert main(["export", str(tmp_path / "alignment.ckpt"), "--out", str(tmp_path / "again")]) == 0
    assert f"| base | {folders['exported']} |" in (tmp_path / "again" / "README.md").read_text()


def test_a_plan_is_for_the_folders_base(folders: dict[str, Path]) -> None:
    arguments = ["--config", "configs/tiny/joint.yaml", f"--model.init_from={folders['exported']}"]
    assert parse_run(arguments, None).base == str(folders["exported"])
