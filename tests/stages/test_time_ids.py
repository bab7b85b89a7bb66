"""SDXL's size conditioning: training crops, whole images and tiles describe the same pixels in the same way."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.small import sdxl_like_base
from tests.stages.steps import make_batch, make_stage, without_trainer
from unildiff.core.pixels import to_unit
from unildiff.data.batch import RestorationBatch, cut_batch
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.weights.folder import save_base


def crop_of_a_large_image() -> RestorationBatch:
    """Return two crops of 128 pixels of images of 304 x 208, as a training set gives them."""
    batch = make_batch((1, 2), 128)
    batch["original_size"] = torch.tensor([[304, 208], [304, 208]])
    batch["crop"] = torch.tensor([[112, 0], [176, 80]])
    return batch


@pytest.mark.parametrize("kind", ["alignment", "decoder"])
def test_training_describes_a_crop_as_restoration_describes_a_tile(kind: str, tmp_path: Path) -> None:
    save_base(sdxl_like_base(), tmp_path)
    module = make_stage(kind, tmp_path, **({"latents": "sample"} if kind == "decoder" else {}))
    without_trainer(module)
    module.log_scalars = lambda values: None  # type: ignore[method-assign]
    seen: list[Tensor] = []
    module.model.unet.register_forward_pre_hook(lambda unet, args: seen.append(args[2].time_ids))
    module.training_step(crop_of_a_large_image(), 0)  # type: ignore[arg-type]
    in_training = seen[0].tolist()
    assert in_training == [[304, 208, 112, 0, 128, 128], [304, 208, 176, 80, 128, 128]]
    seen.clear()
    module.eval()
    image = to_unit(torch.zeros(1, 3, 304, 208, dtype=torch.uint8))
    module.model.restore(image, [""], [1], SamplingSettings(1, tile_size=128))
    described = [row for ids in seen for row in ids.tolist()]
    assert in_training[0] in described and in_training[1] in described


def test_a_batch_without_sizes_holds_whole_images(tmp_path: Path) -> None:
    save_base(sdxl_like_base(), tmp_path)
    module = make_stage("alignment", tmp_path)
    without_trainer(module)
    seen: list[Tensor] = []
    module.model.unet.register_forward_pre_hook(lambda unet, args: seen.append(args[2].time_ids))
    module.training_step(make_batch((1, 2), 64), 0)  # type: ignore[arg-type]
    assert seen[0].tolist() == [[64, 64, 0, 0, 64, 64]] * 2


def test_pieces_keep_their_place_in_the_original() -> None:
    cut = cut_batch(crop_of_a_large_image(), 2)
    assert cut["crop"].tolist()[:4] == [[112, 0], [112, 64], [176, 0], [176, 64]]
    assert cut["original_size"].tolist() == [[304, 208]] * 8
