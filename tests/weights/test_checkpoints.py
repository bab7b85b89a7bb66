"""Contents of checkpoints, the start of the next stage from one, and refusals."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.small import NETWORK
from tests.stages.steps import make_batch, make_loader, make_stage, make_trainer
from unildiff.callbacks import ExponentialMovingAverage
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.stages.restoration import RestorationModule
from unildiff.utils.errors import UserError
from unildiff.weights.checkpoint_files import load_file_safely
from unildiff.weights.checkpoints import StageCheckpoint, read_checkpoint
from unildiff.weights.load import model_from_checkpoint

RATE = OptimizerConfig(1e-2, None, 0.0, 0, "constant")


@pytest.fixture(scope="module")
def chain(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a checkpoint of each stage after one step, each started from the one before."""
    folder = tmp_path_factory.mktemp("chain")
    paths: dict[str, Path] = {}
    before = None
    for kind in ("alignment", "joint", "decoder"):
        module = make_stage(kind, base_folder, init_from=before, optimizer=RATE, sampling=SamplingSettings(3))
        trainer = make_trainer(folder, max_steps=1)
        trainer.fit(module, make_loader([make_batch([1, 2])]))
        paths[kind] = folder / f"{kind}.ckpt"
        trainer.save_checkpoint(paths[kind])
        before = str(paths[kind])
    return paths


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize("kind", ["alignment", "joint", "decoder"])
def test_holds_only_trained_weights(kind: str, chain: dict[str, Path], base_folder: Path) -> None:
    content = torch.load(chain[kind], weights_only=True)
    trained = {name: value for name, value in make_stage(kind, base_folder).trained_parameters()}
    assert set(content["state_dict"]) == set(trained)
    assert {name: value.shape for name, value in content["state_dict"].items()} == {
        n: v.shape for n, v in trained.items()
    }
    (optimizer,) = content["optimizer_states"]
    assert len(optimizer["state"]) == len(trained)
    weights = sum(value.numel() for value in trained.values()) * 4
    assert chain[kind].stat().st_size < 3 * weights + 1000 * len(trained) + 50_000  # weights, two moments, names
    settings = content["hyper_parameters"]
    assert is_plain(settings)
    assert settings["network"]["fusion"]["hidden_size"] == 16 and settings["base"] == str(base_folder)
    # Sampler and scoring settings come from the command, never from a checkpoint.
    assert not {"sampling", "training_sampling", "evaluation"} & set(settings)


def test_each_stage_starts_from_the_one_before(chain: dict[str, Path], base_folder: Path) -> None:
    for kind, before, prefixes in (
        ("joint", "alignment", ("model.unet.fusion.",)),
        ("decoder", "joint", ("model.unet.", "model.lq_encoder.")),
    ):
        weights = torch.load(chain[before], weights_only=True)["state_dict"]
        started = dict(make_stage(kind, base_folder, init_from=str(chain[before])).named_parameters())
        fresh = dict(make_stage(kind, base_folder, seed=1).named_parameters())
        handed = {name for name in started if name.startswith(prefixes)}
        assert handed == set(weights)
        assert all(torch.equal(started[name], weights[name]) for name in handed)
        assert any(not torch.equal(started[name], fresh[name]) for name in handed)
        # All other weights of the base are unchanged.
        kept = {name for name in started if not name.startswith((*prefixes, "model.decoder.", "model.unet.fusion."))}
        assert kept and all(torch.equal(started[name], fresh[name]) for name in kept)


def test_unmatched_weights_are_listed(chain: dict[str, Path], base_folder: Path) -> None:
    with pytest.raises(UserError) as error:  # an alignment checkpoint has no U-Net
        make_stage("decoder", base_folder, init_from=str(chain["alignment"]))
    assert "missing: lq_encoder.conv_in.bias" in one_line(error) and "alignment.ckpt" in str(error.value)
    with pytest.raises(UserError) as error:  # and joint does not copy the U-Net of a joint checkpoint
        make_stage("joint", base_folder, init_from=str(chain["joint"]))
    assert "not expected (or of another shape): model.lq_encoder.conv_in.bias" in one_line(error)
    assert "missing" not in str(error.value)
    wider = replace(NETWORK, fusion=replace(NETWORK.fusion, mlp_ratio=3))
    with pytest.raises(UserError) as error:
        make_stage("joint", base_folder, network=wider, init_from=str(chain["alignment"]))
    assert "unet.fusion.double_blocks.0.latent.mlp.0.bias" in one_line(error)
    assert error.value.args[0].count("and ") >= 1  # more than can be listed


def test_averaged_weights_are_transferred(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    weights = {"model.0.weight": torch.zeros(1, 2), "model.0.bias": torch.zeros(1)}
    average = {"model.0.weight": torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16)}
    torch.save({"state_dict": weights, "ema_state_dict": average}, tmp_path / "a.ckpt")
    read_checkpoint(tmp_path / "a.ckpt").fill(model, {"0.": "0."})
    assert model[0].weight.tolist() == [[3, 4]] and model[0].bias.tolist() == [0]
    assert model[0].weight.dtype == torch.float32


def test_rules_rename_prefixes() -> None:
    model = nn.ModuleDict({"new": nn.Linear(1, 1), "other": nn.Linear(1, 1)})
    other = model["other"].weight.clone()
    weights = {"model.old.weight": torch.tensor([[5.0]]), "model.old.bias": torch.tensor([6.0])}
    checkpoint = StageCheckpoint(Path("a.ckpt"), weights, "", {}, 0, False)
    checkpoint.fill(model, {"old.": "new."})
    assert (model["new"].weight.item(), model["new"].bias.item()) == (5, 6)
    assert torch.equal(model["other"].weight, other)
    with pytest.raises(UserError, match=r"2 missing: new\.bias, new\.weight; 2 not expected .*: model\.old\.bias"):
        checkpoint.fill(model, {"new.": "new."})


def test_resuming_is_exact_and_keeps_this_commands_sampler(base_folder: Path, tmp_path: Path) -> None:
    def stage() -> RestorationModule:
        return make_stage("alignment", base_folder, optimizer=RATE, sampling=SamplingSettings(7))

    batch, whole, first, second = make_loader([make_batch([1, 2])]), stage(), stage(), stage()
    make_trainer(tmp_path, max_steps=3).fit(whole, batch)
    trainer = make_trainer(tmp_path, max_steps=2)
    first.settings.sampling = SamplingSettings(5)
    trainer.fit(first, batch)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(tmp_path, max_steps=3).fit(second, batch, ckpt_path=tmp_path / "half.ckpt")
    assert second.settings.sampling.num_inference_steps == 7
    ends = dict(second.named_parameters())
    assert all(torch.equal(value, ends[name]) for name, value in whole.named_parameters())


def test_a_weights_only_checkpoint_without_callbacks_is_validated_by_its_average(
    chain: dict[str, Path], base_folder: Path, tmp_path: Path
) -> None:
    content = torch.load(chain["alignment"], weights_only=True)
    average = {name: value + 0.5 for name, value in content["state_dict"].items()}
    torch.save(
        {k: v for k, v in content.items() if k != "callbacks"} | {"ema_state_dict": average}, tmp_path / "a.ckpt"
    )
    ema, module = ExponentialMovingAverage(), make_stage("alignment", base_folder, sampling=SamplingSettings(1))
    trainer = make_trainer(tmp_path, [ema])
    trainer.validate(module, make_loader([make_batch([1])]), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert set(ema.average) == set(average) and all(torch.equal(ema.average[name], average[name]) for name in average)


@pytest.fixture
def moved_on(chain: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Return the chain's decoder, started from a link, and another joint checkpoint that the link points to now."""
    content = torch.load(chain["joint"], weights_only=True)
    content["state_dict"] = {name: value + 0.01 for name, value in content["state_dict"].items()}
    torch.save(content | {"global_step": 2}, tmp_path / "later.ckpt")
    (tmp_path / "last.ckpt").symlink_to(chain["joint"])
    decoder = torch.load(chain["decoder"], weights_only=True)
    decoder["hyper_parameters"]["init_from"] = str(tmp_path / "last.ckpt")
    torch.save(decoder, tmp_path / "decoder.ckpt")
    del decoder["started_from"]
    torch.save(decoder, tmp_path / "older.ckpt")
    return {name: tmp_path / f"{name}.ckpt" for name in ("decoder", "older", "last", "later")}


def test_a_decoder_is_not_combined_with_another_unet(
    moved_on: dict[str, Path], chain: dict[str, Path], base_folder: Path, tmp_path: Path
) -> None:
    def resume() -> None:
        module = make_stage("decoder", base_folder, init_from=str(moved_on["last"]), optimizer=RATE)
        loader = make_loader([make_batch([1, 2])])
        make_trainer(tmp_path, max_steps=2).fit(module, loader, ckpt_path=moved_on["decoder"])

    resume()
    model_from_checkpoint(moved_on["decoder"])
    moved_on["last"].unlink()
    moved_on["last"].symlink_to(moved_on["later"])
    refused = (
        rf"^init_from: {moved_on['last']} holds other weights now \(\w+\) than .* was trained on \(\w+\); name the"
    )
    for load in (
        resume,
        lambda: model_from_checkpoint(moved_on["decoder"]),
        lambda: DecoderFinetuneModule.load_from_checkpoint(moved_on["decoder"]),
    ):
        with pytest.raises(UserError, match=refused) as error:
            load()
        one_line(error)
    model_from_checkpoint(moved_on["older"])  # does not record what it was trained on
    model_from_checkpoint(moved_on["decoder"], init_from=str(chain["joint"]))  # at its new path
    model_from_checkpoint(moved_on["decoder"], torch.bfloat16, str(chain["joint"]))


def test_another_stages_checkpoint_cannot_be_resumed(chain: dict[str, Path], base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="JointFinetuneModule: weights do not match") as error:
        make_trainer(tmp_path, max_steps=2).fit(
            make_stage("joint", base_folder), make_loader([make_batch([1])]), ckpt_path=chain["alignment"]
        )
    assert "missing: model.lq_encoder.conv_in.bias" in one_line(error)


def test_load_from_checkpoint_of_lightning(chain: dict[str, Path]) -> None:
    loaded = DecoderFinetuneModule.load_from_checkpoint(chain["decoder"])
    assert loaded.model.config == NETWORK and loaded.optimizer_config == RATE
    weights = torch.load(chain["decoder"], weights_only=True)["state_dict"]
    before = torch.load(chain["joint"], weights_only=True)["state_dict"]
    for name, value in loaded.named_parameters():
        expected = weights.get(name, before.get(name))
        assert expected is None or torch.equal(value, expected)


def resident(path: Path) -> int:
    """Return how many bytes of a mapped file are in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [index for index, line in enumerate(lines) if line.endswith(str(path))]
    sizes = [next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts]
    return sum(int(size.split()[1]) * 1024 for size in sizes)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_only_what_is_used_is_read(tmp_path: Path) -> None:
    path, mega = tmp_path / "large.ckpt", 1 << 20
    values = torch.randn(1, mega)  # 4 MB of weights, 32 MB of optimiser
    moments = {"state": {0: {"exp_avg": torch.ones(4 * mega), "exp_avg_sq": torch.ones(4 * mega)}}}
    torch.save({"state_dict": {"model.weight": values}, "optimizer_states": [moments]}, path)
    whole = load_file_safely(path)
    assert resident(path) == 0  # in its own memory
    model = nn.Linear(mega, 1, bias=False)
    checkpoint = read_checkpoint(path)
    checkpoint.fill(model, {"": ""})
    assert torch.equal(model.weight, values) and torch.equal(whole["state_dict"]["model.weight"], values)
    assert 4 * mega <= resident(path) < 8 * mega


def test_a_checkpoint_that_is_being_read_does_not_change(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.ones(1, 4)}}, path)
    before, checkpoint = path.read_bytes(), read_checkpoint(path)
    checkpoint.weights["weight"].mul_(3)
    assert path.read_bytes() == before
    torch.save({"state_dict": {}}, tmp_path / "new.ckpt")  # as a run that is still training would replace it
    os.replace(tmp_path / "new.ckpt", path)
    model = nn.Linear(4, 1, bias=False)
    checkpoint.fill(model, {"": ""})
    assert model.weight.tolist() == [[3, 3, 3, 3]]


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


def test_no_code_runs_from_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "extra": Harmful(tmp_path / "trace")}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"bad\.ckpt is not a checkpoint"):
        read_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "trace").exists()


def test_files_that_are_not_checkpoints(tmp_path: Path, chain: dict[str, Path]) -> None:
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    whole = chain["alignment"].read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"weights": {}}, tmp_path / "other.ckpt")
    for name, reason in (
        ("none", "no file"),
        ("text", "is not a checkpoint"),
        ("cut", "is truncated"),
        ("list", "a list"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            load_file_safely(tmp_path / f"{name}.ckpt")
        assert f"{name}.ckpt" in one_line(error)
    with pytest.raises(UserError, match="holds no state_dict"):
        read_checkpoint(tmp_path / "other.ckpt")
