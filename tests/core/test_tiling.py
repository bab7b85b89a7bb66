import logging
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.small import NETWORK, random_images, sdxl_like_base, small_base, small_model
from unildiff.core import tiled_model
from unildiff.core.daem import LevelStatistics
from unildiff.core.model import UniLDiff
from unildiff.core.tiled_model import level_statistics, out_of_memory
from unildiff.core.tiling import axis_share, make_grid
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.planning.tracker import Tracker
from unildiff.utils.errors import UserError


@pytest.mark.parametrize(("height", "width", "side"), [(16, 64, 16), (50, 70, 24), (128, 32, 40), (18, 500, 17)])
def test_tiles_are_equal_and_cover(height: int, width: int, side: int) -> None:
    grid = make_grid(height, width, side)
    assert grid is not None
    covered = torch.zeros(height, width)
    owned = torch.zeros(height, width)
    for tile in grid.tiles():
        assert tile.cut(covered).shape == grid.tile and tile.rows[0] % 2 == tile.columns[0] % 2 == 0
        tile.cut(covered).add_(1)
        grid.inner(tile).cut(owned).add_(1)
    assert covered.min() == 1
    assert torch.equal(owned, torch.ones_like(owned))
    for starts, length in ((grid.tops, height), (grid.lefts, width)):
        tile_side = grid.tile[0] if starts is grid.tops else grid.tile[1]
        assert starts[-1] + tile_side == length
        overlap = int(side * 0.25) // 2 * 2
        assert all(b - a <= tile_side - overlap for a, b in pairwise(starts))


def test_shares_add_up_and_change_smoothly() -> None:
    grid = make_grid(32, 104, 32)  # four tiles of 32 that share 8
    assert grid is not None and grid.lefts == (0, 24, 48, 72)
    shares = axis_share(104, 32, grid.lefts, scale=8)
    total = torch.zeros(104 * 8)
    for start, share in zip(grid.lefts, shares, strict=True):
        total[start * 8 : start * 8 + 256] += share
        assert (
            share.diff().abs().max() < 0.06
        )  # raised cosine over half of the 64 pixels shared: slope pi / 2 / 32 = 0.049
    assert torch.allclose(total, torch.ones(104 * 8), atol=1e-6)
    assert shares[1][:16].max() == 0  # nothing from where a network has seen padding
    assert shares[0][:16].min() == 1  # but at the edge of the image there is no neighbour


def test_small_tiles_share_at_least_48_pixels() -> None:
    model = small_model()
    for side, least in ((128, 6), (136, 6), (192, 6), (256, 8), (512, 16)):
        grid = model.grid(512, 2048, side)
        assert grid is not None
        overlaps = [grid.tile[1] - (after - before) for before, after in pairwise(grid.lefts)]
        assert min(overlaps) == least, side


def test_one_tile_is_the_whole_image() -> None:
    assert make_grid(16, 16, 16) is None
    model = small_model()
    x, settings = random_images(100, 90, 1), SamplingSettings(2)
    whole = model.restore(x, ["a cat"], [1], settings)
    assert torch.equal(whole, model.restore(x, ["a cat"], [1], SamplingSettings(2, tile_size=128)))


def test_exact_where_the_receptive_field_fits() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.GELU(), nn.Conv2d(4, 2, 5, padding=2))  # sees 4 around
    x = torch.randn(2, 3, 60, 90)
    grid = make_grid(60, 90, 32, overlap_share=0.5)  # a quarter of the overlap of 16 is 4
    assert grid is not None
    with torch.no_grad():
        assert torch.allclose(grid.fuse(lambda tile: network(tile.cut(x))), network(x), atol=1e-6)
        closer = make_grid(60, 90, 32, overlap_share=0.25)
        assert closer is not None
        assert not torch.allclose(closer.fuse(lambda tile: network(tile.cut(x))), network(x), atol=1e-6)


def local(model: UniLDiff) -> UniLDiff:
    """Take out what looks at the whole image beside DAEM: normalisation over space."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return model


@pytest.mark.parametrize(("to_pixels", "tone"), [(False, False), (True, True)])
def test_encoder_and_decoder_equal_the_whole_image(to_pixels: bool, tone: bool) -> None:
    """With DAEM's routing and pooled gate, which are decided for the whole image."""
    model = local(small_model(network=replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=to_pixels, tone=tone))))
    if to_pixels:  # a share that depends on the image
        torch.manual_seed(0)
        torch.nn.init.normal_(model.decoder.pixels.brightness.output.weight, std=1)
        model.decoder.pixels.brightness.output.bias.zero_()
    x = torch.cat(
        [random_images(160, 256, 1), torch.zeros(1, 3, 160, 256)], dim=3
    )  # its halves would be routed differently
    whole, tiled = model.encode_lq(x), model.encode_lq(x, tile_size=320)
    assert tiled.grid is not None and not tiled.skips
    # The tiles share 16 latents, of which 4 at the edge do not count; the encoder sees a little further, and faintly.
    assert torch.allclose(whole.deep, tiled.deep, atol=1e-4)
    assert torch.allclose(whole.latents, tiled.latents, atol=1e-4)

    seen: list[LevelStatistics] = []
    hooks = [
        level.register_forward_pre_hook(lambda level, args: seen.append(LevelStatistics.of(level.merged(*args[:2]))))
        for level in model.decoder.details
    ]
    expected = model.decode(whole.latents, whole, x.shape)
    for hook in hooks:
        hook.remove()
    for ours, theirs in zip(level_statistics(model, whole.latents, tiled), seen, strict=True):
        assert torch.allclose(ours.mean, theirs.mean, atol=1e-4)
        assert torch.allclose(ours.spread, theirs.spread, atol=1e-4)
    assert torch.allclose(expected, model.decode(whole.latents, tiled, x.shape), atol=1e-3)
    assert torch.allclose(
        model.decode(whole.latents, whole, x.shape, detail=False),
        model.decode(whole.latents, tiled, x.shape, detail=False),
        atol=1e-3,
    )


def test_routing_is_decided_once_for_the_image() -> None:
    model = small_model()
    x = torch.cat([random_images(64, 192, 1), torch.full((1, 3, 64, 192), 0.9)], dim=3)
    decided: list[Tensor] = []

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        decided.append(torch.stack([routing.gates for routing in output[1]]))

    model.decoder.register_forward_hook(note, with_kwargs=True)
    features = model.encode_lq(x, tile_size=128)
    model.decode(features.latents, features, x.shape)
    assert len(decided) == len(list(features.grid.tiles())) > 2  # type: ignore[union-attr]
    assert all(torch.equal(decided[0], other) for other in decided[1:])
    decided.clear()
    for part in (x[..., :128], x[..., -128:]):  # by themselves these parts are routed otherwise
        alone = model.encode_lq(part)
        model.decode(alone.latents, alone, part.shape)
    assert not torch.equal(decided[0], decided[1])


def test_a_tile_is_described_as_the_training_crop_at_its_place() -> None:
    model = small_model(sdxl_like_base())
    seen: list[Tensor] = []
    model.unet.register_forward_pre_hook(lambda module, args: seen.append(args[2].time_ids))
    model.restore(random_images(64, 270, 1), [""], [1], SamplingSettings(1, tile_size=128))
    # 270 is padded to 272: 34 latents of 8 pixels, in tiles of 16 latents that begin at 0, 8 (9 is odd) and 18.
    # As in a training sample: original size, the corner in it, and the size of what the network sees.
    assert [ids[0].tolist() for ids in seen] == [[64, 270, 0, left, 64, 128] for left in (0, 64, 144)]
    seen.clear()
    model.restore(random_images(60, 90, 1), [""], [1], SamplingSettings(1))
    assert seen[0].tolist() == [[60, 90, 0, 0, 64, 96]]  # whole images: padded to multiples of 16


def test_no_seam_where_tiles_differ_in_tone() -> None:
    """Each tile comes out too bright or too dark by up to 10/255, as normalisation over a tile makes it."""
    grid = make_grid(64, 192, 64)
    assert grid is not None
    ramp = torch.linspace(0, 1, 192 * 8).expand(1, 3, 64 * 8, -1)
    offsets = {tile: sign * 10 / 255 for tile, sign in zip(grid.tiles(), (1, -1, 1, -1), strict=True)}
    fused = grid.fuse(lambda tile: tile.cut(ramp, 8) + offsets[tile], scale=8)
    step = ramp.diff(dim=3).mean()
    assert (fused.diff(dim=3) - step).abs().max() < 1 / 255
    assert fused.diff(dim=2).abs().max() < 1e-6


@pytest.mark.parametrize("rope_grid", [0, 4])
def test_no_seam_in_a_prediction_whose_tiles_exceed_the_trained_grid(rope_grid: int) -> None:
    """A flat image and flat latents: each tile's prediction varies with its own positions, and blends into the next."""
    network = replace(NETWORK, fusion=replace(NETWORK.fusion, rope_grid=rope_grid))
    model = small_model(network=network)
    x = torch.zeros(1, 3, 128, 512)
    features = model.encode_lq(x, tile_size=128)  # 16 x 16 tokens, four times the grid of 4
    _, predict = tiled_model.tiled_predictors(model, features, model.embed([""]))
    with torch.no_grad():
        prediction = predict(torch.zeros(1, 4, 16, 64), torch.tensor([500.0]))
    steps = prediction.diff(dim=3).abs().amax(dim=(0, 1, 2))
    edges = {left + offset for left in features.grid.lefts[1:] for offset in (-1, 3)}  # type: ignore[union-attr]
    at_edges = torch.stack([steps[edge] for edge in sorted(edges)])
    assert at_edges.max() <= steps.max() and at_edges.mean() < 2 * steps.mean()


@pytest.mark.parametrize("size", [(64, 64), (37, 301), (131, 129), (24, 4096)])
def test_size_is_kept(size: tuple[int, int]) -> None:
    model = small_model()
    out = model.restore(random_images(*size, count=1), [""], [1], SamplingSettings(1, tile_size=128))
    assert out.shape == (1, 3, *size)
    assert out.isfinite().all() and out.abs().max() <= 1


def test_guided_tiles_equal_two_passes() -> None:
    """Guidance is linear, so that fusing before or after it is the same; the doubled batch must not mix up its halves."""
    model = small_model()
    x = random_images(64, 200, 1)
    with_text = model.restore(x, ["a red cat"], [1], SamplingSettings(1, 1.0, tile_size=128))
    guided = model.restore(x, ["a red cat"], [1], SamplingSettings(1, 1.0001, tile_size=128))
    assert torch.allclose(with_text, guided, atol=1e-2)
    assert not torch.equal(with_text, model.restore(x, ["a red cat"], [1], SamplingSettings(1, 5.0, tile_size=128)))


def peak(model: UniLDiff, width: int, tile_size: int | None) -> int:
    x = random_images(64, width, 1)
    with Tracker() as tracker:
        model.restore(x, ["a cat"], [1], SamplingSettings(1, 5.0, tile_size=tile_size))
    return tracker.peak


def test_memory_hardly_grows_beyond_a_tile() -> None:
    model = UniLDiff(small_base(), NETWORK).eval().requires_grad_(False)
    tiled = [peak(model, width, 128) for width in (1024, 2048)]
    whole = [peak(model, width, None) for width in (1024, 2048)]
    pixels = 64 * 1024
    # What must grow: image, result, its sum, a tile's share of it: 3 x 4 bytes a pixel each, and latents.
    assert (tiled[1] - tiled[0]) / pixels < 40
    assert (whole[1] - whole[0]) > 2 * (tiled[1] - tiled[0])


def test_too_little_memory_is_answered_by_smaller_tiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model()
    x = random_images(64, 600, 1)
    expected = model.restore(x, [""], [1], SamplingSettings(1, tile_size=150))
    encoder = model.lq_encoder

    class Small(nn.Module):
        def forward(self, images: Tensor) -> Any:
            if images.shape[3] > 200:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return encoder(images)

    model.lq_encoder = Small()  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        out = model.restore(x, [""], [1], SamplingSettings(1))
    assert torch.equal(out, expected)  # 600 does not fit, 300 neither, 150 does
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "not enough memory for restoration of 64 x 600 pixels in one piece",
        "not enough memory for restoration of 64 x 600 pixels in tiles of 300",
    ]

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Any:
            raise RuntimeError("shapes do not match")

    model.lq_encoder = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        model.restore(x, [""], [1], SamplingSettings(1))


def test_decoder_without_memory_repeats_only_the_decoder(caplog: pytest.LogCaptureFixture) -> None:
    model = local(small_model())
    x, steps, failures = random_images(160, 600, 1), [0], [0]
    expected = model.restore(x, ["a cat"], [1], SamplingSettings(1))
    decoder = model.decoder.forward

    def limited(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        if latents.shape[3] > 320 // 8:
            failures[0] += 1
            raise RuntimeError("upsample_nearest2d only supports output tensors with less than INT_MAX elements")
        return decoder(latents, *args, **kwargs)

    def count(step: int, latents: Tensor) -> None:
        steps[0] += 1

    model.decoder.forward = limited  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        out = model.restore(x, ["a cat"], [1], SamplingSettings(1), callback=count)
    assert steps == [1] and failures == [1]  # one failure in one piece (600), then tiles of 300 pixels; sampled once
    assert "not enough memory for decoding of 160 x 600 pixels in one piece" in caplog.text
    assert torch.allclose(out, expected, atol=2e-2)  # the tiles of the decoder see a little less


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("MPS backend out of memory (MPS allocated: 18.00 GB)", True),
        ("Invalid buffer size: 24.00 GiB", True),
        ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", True),
        ("upsample_nearest2d_nhwc only supports output tensors with less than INT_MAX elements", True),
        ("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("CUDA error: device-side assert triggered", False),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_messages_that_smaller_tiles_help_against(message: str, expected: bool) -> None:
    assert out_of_memory(RuntimeError(message)) is expected


def test_pytorchs_own_error_is_out_of_memory() -> None:
    assert out_of_memory(torch.OutOfMemoryError("whatever"))


def test_large_images_are_tiled_at_the_base_models_own_size() -> None:
    sdxl = small_model(sdxl_like_base())  # sample_size 128 latents of 8 pixels, as SDXL
    sizes = [(512, 512), (1536, 1536), (1544, 64), (64, 4000)]
    assert [sdxl.default_tile_size(*size) for size in sizes] == [None, None, 1024, 1024]
    assert (
        small_model().default_tile_size(4000, 4000) is None
    )  # the tiny base: one piece, as it was trained and measured


def test_tiles_in_one_batch_equal_tiles_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two images, two captions per image and an uneven last pass; in double precision, so that order is all that differs."""
    model = small_model(sdxl_like_base()).double()
    x = torch.cat([random_images(64, 368, 1), random_images(64, 368, 1, seed=1)]).double()
    arguments: Any = (x, ["a cat", "the table"], [1, 2], SamplingSettings(2, 3.0, tile_size=128))
    calls: list[int] = []
    model.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    expected = model.restore(*arguments)
    assert calls == [2] * 8  # four tiles and two steps, two images each
    calls.clear()
    monkeypatch.setattr(tiled_model, "tiles_per_pass", lambda *_: 3)
    assert torch.allclose(model.restore(*arguments), expected, atol=1e-6)
    assert calls == [6, 2] * 2


def test_tiles_prepare_their_contexts_once_for_all_steps() -> None:
    model = small_model(sdxl_like_base())
    prepared: list[int] = []
    fusion = model.unet.fusion
    original = fusion.prepare
    fusion.prepare = lambda deep, text: (prepared.append(len(text)), original(deep, text))[1]  # type: ignore[method-assign]
    model.restore(random_images(64, 270, 1), ["a cat"], [1], SamplingSettings(4, 3.0, tile_size=128))
    assert prepared == [2, 2, 2]  # three tiles under two captions each, whatever the number of steps


def test_tiles_that_are_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="a whole number between 128"):
        SamplingSettings(tile_size=64)
    with pytest.raises(ValueError, match="at least 8"):
        make_grid(64, 64, 6)
