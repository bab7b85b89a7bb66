"""`unildiff figures`: the inner workings of a model, and its sampling settings."""

from pathlib import Path
from typing import Annotated

from unildiff.utils.datamodules import known_name
from unildiff.utils.files import input_folder, output_folder
from unildiff.utils.validation import PixelCount, PositiveInt, Range, Seed
from unildiff.weights.source import check_source


def figures(
    data: str = "cdd11",
    root: Path | None = None,
    model: str = "tiny",
    out: Path = Path("results/figures"),
    images: PositiveInt = 5,
    sweep_images: PositiveInt = 1,
    steps: list[PositiveInt] = [1, 2, 5, 10, 20],  # noqa: B006  jsonargparse shows it as the default; never changed here
    guidance: list[Annotated[float, Range(0, 1000)]] = [1.0, 2.5, 5.0, 7.5],  # noqa: B006
    perception: str = "lpips",
    side: PixelCount = 512,
    num_inference_steps: PositiveInt = 20,
    seed: Seed = 0,
    device: str = "auto",
) -> None:
    """Draw a model's gate, fusion, experts, LQ features and sampling settings on a dataset's test images.

    Writes fusion_gate, fusion_strength, experts_usage_LAYER, experts_map_DEGRADATION, lq_features, sampling and
    perception_distortion as PDF and PNG, and the numbers behind them as figures.json and sampling.csv. Figures that this
    model or dataset does not allow (no routed layer, no gate, a single degradation) are named and left out.

    Args:
        data: Dataset, as `unildiff test --data` takes it.
        root: Its folder; by default the dataset's own.
        model: tiny (comes with the package), a folder made by `unildiff export`, or a checkpoint.
        out: Folder of the figures; those in RUN_DIR/figures are shown in that run's report.
        images: Number of images of each degradation for the gate, the fusion, the experts and the features; the first
            by name.
        sweep_images: Number of images of each degradation for PSNR against steps and guidance.
        steps: Numbers of sampling steps to compare, at the paper's guidance of 5.
        guidance: Guidance scales to compare, at the paper's 20 steps.
        perception: Metric of the perception-distortion plane, lower is better: lpips, lpips_vgg, dists, gmsd or niqe.
        side: Larger images are cut to their centre of at most this many pixels per side.
        num_inference_steps: Sampling steps while the model is inspected, which is done without guidance.
        seed: Seed of the test noise, as in `unildiff test`.
        device: auto, cpu, cuda, ...

    Raises:
        UserError: There is no such dataset, model, metric or device.
    """
    data = known_name(data)
    check_source(model)
    if root is not None:
        input_folder(root, "the dataset")
    output_folder(out)

    from unildiff.analysis.model_figures import Options, draw_all, test_samples
    from unildiff.diffusion.sampler import SamplingSettings
    from unildiff.weights.load import load_restorer, pick_device

    sampling = SamplingSettings(num_inference_steps)
    options = Options(sampling, tuple(steps), tuple(guidance), perception, sweep_images)
    samples, about = test_samples(data, root, images, side, seed)
    restorer = load_restorer(model).to(pick_device(device))
    written = draw_all(restorer, samples, out, options, {"model": model, "seed": seed, **about})
    print(f"{len(samples)} images of {data}, model {model}; figures: {out}")
    for line in written:
        print(f"  {line}")
