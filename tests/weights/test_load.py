"""A stage can start from an exported folder, which is a complete model."""

from pathlib import Path

import pytest
import torch

from tests.small import NETWORK, small_base, small_model
from tests.stages.steps import make_batch, make_loader, make_trainer
from unildiff.cli.main import main
from unildiff.cli.plan_inputs import parse_run
from unildiff.core.model import UniLDiff
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.alignment import AlignmentModule
from unildiff.stages.joint import JointFinetuneModule
from unildiff.utils.errors import UserError
from unildiff.weights.folder import save_base, save_model
from unildiff.weights.load import model_from_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An exported model, another base, and another VAE."""
    root = tmp_path_factory.mktemp("folders")
    save_model(small_model(seed=1), root / "exported", torch.float32)
    save_base(small_base(seed=2), root / "base")
    save_base(small_base(seed=3), root / "vae")
    return {name: root / name for name in ("exported", "base", "vae")}


def same(first: UniLDiff, second: UniLDiff, prefix: str = "") -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a if name.startswith(prefix))


def test_a_stage_starts_from_an_exported_model_only_with_its_own_base(folders: dict[str, Path], tmp_path: Path) -> None:
    exported, base = str(folders["exported"]), str(folders["base"])
    (tmp_path / "link").symlink_to(exported)
    for settings in ({"network": None}, {"network": NETWORK}):
        module = AlignmentModule(base=str(tmp_path / "link"), init_from=exported, **settings)  # type: ignore[arg-type]
        assert same(module.model, small_model(seed=1))
    for other in (base, "tiny", str(folders["vae"]), "some/id"):
        with pytest.raises(UserError, match=f"init_from: {exported} is a whole model.* but base is {other}; give one"):
            AlignmentModule(base=other, init_from=exported)
    with pytest.raises(UserError, match="is a whole model"):
        parse_run(["--config", "configs/tiny/joint.yaml", f"--model.init_from={exported}"], None)


def test_the_stages_after_an_exported_model_keep_its_base(folders: dict[str, Path], tmp_path: Path) -> None:
    settings = {"base": str(folders["exported"]), "init_from": str(folders["exported"])}
    module = AlignmentModule(**settings, sampling=SamplingSettings(1))  # type: ignore[arg-type]
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(module, make_loader([make_batch([1, 2])]))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "run" / "checkpoints" / "alignment.ckpt"
    trainer.save_checkpoint(path)
    assert same(model_from_checkpoint(path)[0], module.model) and not same(module.model, small_model(seed=1))
    following = JointFinetuneModule(**settings | {"init_from": str(path)})  # type: ignore[arg-type]
    assert all(same(following.model, module.model, part) for part in ("unet.", "vae.", "text."))
    assert main(["export", str(path), "--out", str(tmp_path / "again")]) == 0
    assert f"| base | {folders['exported']} |" in (tmp_path / "again" / "README.md").read_text()
