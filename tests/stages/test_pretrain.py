"""Pretraining of a base: the loss falls, and the result is a base that the stages build on."""

from pathlib import Path

import pytest
import torch

from tests.small import SMALL
from tests.stages.steps import Losses, make_batch, make_loader, make_stage, make_trainer
from unildiff.core.encoders import decode_latents, encode_latents
from unildiff.core.pixels import to_unit
from unildiff.core.tiny import make_tiny_base
from unildiff.stages import pretrain
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.stages.pretrain import PretrainUNetModule, PretrainVAEModule
from unildiff.weights.base import load_base

RATE = OptimizerConfig(1e-2, None, 0.0, 0, "constant")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "make_tiny_base", lambda words, seed: make_tiny_base(words, seed, SMALL))


def test_vae_then_unet_then_a_stage(tmp_path: Path) -> None:
    batch, losses = make_batch(), Losses()
    vae = PretrainVAEModule(str(tmp_path / "vae"), RATE)
    make_trainer(tmp_path, [losses], max_steps=40).fit(vae, make_loader([batch] * 40))
    assert losses.values[-1] < 0.5 * losses.values[0]

    base = load_base(str(tmp_path / "vae"))
    trained = vae.model.vae.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in base.vae.state_dict().items())
    latents = encode_latents(base.vae, torch.cat([to_unit(batch["lq"][:1]), to_unit(batch["gt"][1:])]))
    assert base.vae.config.scaling_factor == pytest.approx(1 / float(vae.latent_std))
    assert 0.5 < latents.std() < 2  # about unit variance: at this rate the average lags behind

    losses = Losses()
    unet = PretrainUNetModule(str(tmp_path / "vae"), str(tmp_path / "base"), RATE)
    make_trainer(tmp_path, [losses], max_steps=30).fit(unet, make_loader([batch] * 30))
    assert losses.values[-1] < 0.8 * losses.values[0]

    whole = load_base(str(tmp_path / "base"))
    for part, expected in (
        (whole.vae, base.vae),
        (whole.text, unet.model.text),
        (whole.unet.conv_in, unet.model.unet.conv_in),
    ):
        values = expected.state_dict()
        assert all(torch.equal(value, values[name]) for name, value in part.state_dict().items())
    assert isinstance(unet.model.unet.rest.conv_in, torch.nn.Identity)  # the module itself is unchanged
    assert whole.scheduler["prediction_type"] == SMALL["scheduler"]["prediction_type"]
    make_stage("alignment", tmp_path / "base")


def test_deviation_of_the_latents_survives_a_checkpoint(tmp_path: Path) -> None:
    module = PretrainVAEModule(str(tmp_path / "vae"), RATE)
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(module, make_loader([make_batch()]))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    # After one step it equals the deviation of the first batch, whatever its initial value.
    images = to_unit(torch.cat([make_batch()["lq"][:1], make_batch()["gt"][1:]]))
    fresh = PretrainVAEModule(str(tmp_path / "vae"), RATE)
    with torch.no_grad():
        expected = encode_latents(fresh.model.vae, images).std()
    assert module.latent_std == pytest.approx(float(expected), rel=1e-5) and expected != 1
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    fresh.on_load_checkpoint(content)
    assert torch.equal(fresh.latent_std, module.latent_std)


def test_a_share_of_the_batch_is_degraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for share in (0.25, 1.0, 0.0):
        module = PretrainVAEModule(str(tmp_path), RATE, degraded_share=share)
        monkeypatch.setattr(module.model.vae, "encode", lambda images: seen.append(images) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module.training_step(make_batch(), 0)
    lq, gt = (torch.nn.functional.pixel_unshuffle(to_unit(make_batch()[name]), 2) for name in ("lq", "gt"))
    assert torch.equal(seen[0], torch.cat([lq[:1], gt[1:]]))
    assert torch.equal(seen[1], lq) and torch.equal(seen[2], gt)


def test_squared_error_and_a_start_from_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the tiny base itself: the start needs its one halving
    batch = make_batch()
    losses = []
    for weight in (0.0, 10.0, 20.0):
        module = PretrainVAEModule(str(tmp_path / "vae"), RATE, squared_weight=weight, start_pictures=2)
        make_trainer(tmp_path, max_steps=0).fit(module, make_loader([batch]))
        losses.append(float(module.training_step(batch, 0).detach()))
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-3)
    vae, images = module.model.vae, to_unit(torch.cat([batch["lq"][:1], batch["gt"][1:]]))
    with torch.no_grad():
        latents = encode_latents(vae, images)
        squared = (decode_latents(vae, latents) - images).square().mean()
    # The posterior's noise is small at the start, but not zero.
    assert (losses[1] - losses[0]) / 10 == pytest.approx(float(squared), rel=0.05)
    started = vae.encoder.conv_in.weight.clone()
    make_trainer(tmp_path, max_steps=2).fit(module, make_loader([batch] * 2))
    make_trainer(tmp_path, max_steps=0).fit(module, make_loader([batch]))
    assert not torch.equal(vae.encoder.conv_in.weight, started)  # a second run continues instead of starting again
    mean = latents.mean(dim=(2, 3))[:, 0]
    brightness = images.mean(dim=(1, 2, 3))
    assert torch.corrcoef(torch.stack([mean, brightness]))[0, 1].abs() > 0.9  # the first component is brightness
