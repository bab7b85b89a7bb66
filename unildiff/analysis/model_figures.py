"""The figures of a model on a dataset: restores, inspects, scores, draws, and writes the numbers beside the figures.

Axis letters: H/W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unildiff.analysis.figures import embedding_figure, expert_map_figure, expert_usage_figure, gate_figure
from unildiff.analysis.inspection import Observations, observe, reference_images
from unildiff.analysis.sweeps import PAPER, SCORED, sweep, sweep_figure, sweep_means, sweep_points
from unildiff.core.model import UniLDiff
from unildiff.data.batch import RestorationSample, image_array
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.names import METRICS
from unildiff.metrics.protocols import Protocol, get_protocol
from unildiff.metrics.registry import load_scorers
from unildiff.metrics.rows import Row, summarise, write_csv
from unildiff.results.evaluator import score_image
from unildiff.results.figures import perception_distortion_figure
from unildiff.utils import datamodules
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_whole
from unildiff.utils.parallel import progress
from unildiff.weights.load import check_sampling

_MAPS = 3  # degradations whose expert maps are drawn, evenly spread over the list


@dataclass(frozen=True)
class Options:
    """Settings of the figures.

    Attributes:
        sampling: Steps and start while the model is inspected.
        steps: Numbers of steps to compare, at the paper's guidance.
        guidance: Guidance scales to compare, at the paper's steps.
        perception: Metric of the perception-distortion plane.
        sweep_images: Images of each degradation for the comparisons.
    """

    sampling: SamplingSettings
    steps: tuple[int, ...]
    guidance: tuple[float, ...]
    perception: str
    sweep_images: int


def test_samples(
    data: str, root: Path | None, count: int, side: int, seed: int
) -> tuple[list[RestorationSample], dict[str, Any]]:
    """Return the first images by name of each degradation of a test set, and provenance.

    Args:
        data: Short name of a datamodule.
        root: Its folder; None: its own.
        count: Number of images of each degradation.
        side: Pixels; larger images are cut to their centre.
        seed: Seed of the test noise.

    Raises:
        UserError: There is no such dataset, it cannot be read, or a number is not positive.
    """
    if count < 1 or side < 16:
        raise UserError(f"figures: --images {count}, --side {side}; give at least 1 and 16")
    given = {} if root is None else {"root": str(root)}
    try:
        datamodule = datamodules.constructor(data)(test_seed=seed, num_workers=0, **given)
    except TypeError:
        raise UserError(f"figures: {data} takes no root; leave out --root") from None
    test = datamodule.test_set()
    chosen: dict[str, list[int]] = {pair.degradation: [] for pair in test.pairs}
    for index in sorted(range(len(test)), key=lambda index: str(test.pairs[index].name)):
        chosen[test.pairs[index].degradation].append(index)
    samples = [_centre(test[index], side) for indices in chosen.values() for index in indices[:count]]
    about = {"data": data, "data_kind": datamodule.data_kind, "protocol": datamodule.protocol}
    return samples, about


test_samples.__test__ = False  # type: ignore[attr-defined]  # the name would make pytest collect it


def _centre(sample: RestorationSample, side: int) -> RestorationSample:
    height, width = sample["lq"].shape[1:]
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    window = (slice(None), slice(top, top + side), slice(left, left + side))
    return {**sample, "lq": sample["lq"][window], "gt": sample["gt"][window]}


def draw_all(
    model: UniLDiff, samples: Sequence[RestorationSample], out: Path, options: Options, about: dict[str, Any]
) -> list[str]:
    """Draw every figure that this model and these images allow, and write ``figures.json``.

    Args:
        model: Model in evaluation mode.
        samples: Images of one or more degradations.
        out: Folder; it is created.
        options: Settings of the figures.
        about: Provenance for ``figures.json``; its ``protocol`` is that of the scores.

    Returns:
        One line per figure: its name, or why it is left out.

    Raises:
        UserError: A metric or a number of steps cannot be used, or the folder cannot be written.
    """
    if options.sweep_images < 1:
        raise UserError(f"figures: sweep_images {options.sweep_images}; give at least 1")
    check_sampling(model, options.sampling, "figures")
    for number in options.steps:
        check_sampling(model, replace(PAPER, num_inference_steps=number), "figures, steps")
    protocol = get_protocol(str(about["protocol"]))
    usable = [name for name, each in METRICS.items() if not each.higher_is_better and each.kind != "set"]
    if options.perception not in usable:
        raise UserError(
            f"perception: '{options.perception}' is not a metric with lower as better; choose {', '.join(usable)}"
        )
    output_folder(out)
    observed = [observe(model, each, options.sampling) for each in progress(samples, len(samples), "inspecting")]
    lines, numbers = _draw_observed(samples, observed, out)
    swept, points = _draw_sweep(model, samples, out, options, protocol)
    steps = options.sampling.num_inference_steps
    content = pd.Series({**about, "steps": steps, "images": len(samples), **numbers, **points})
    write_whole(out / "figures.json", (content.to_json(indent=1, double_precision=15) + "\n").encode())
    return [*lines, *swept, "figures.json"]


def _draw_observed(
    samples: Sequence[RestorationSample], observed: Sequence[Observations], out: Path
) -> tuple[list[str], dict[str, Any]]:
    labels = [sample["degradation"] for sample in samples]
    first = {label: labels.index(label) for label in labels}

    def by_degradation(value: Callable[[Observations], Any], average: Callable[..., Any]) -> dict[str, Any]:
        return {
            name: average([value(each) for each, label in zip(observed, labels, strict=True) if label == name], axis=0)
            for name in first
        }

    timesteps, gate, maps = observed[0].timesteps, observed[0].gate, observed[0].maps
    strength = by_degradation(lambda each: each.strength, np.mean)
    numbers: dict[str, Any] = {"timesteps": timesteps, "gate": gate, "fusion_strength": strength, "expert_usage": {}}
    lines = ["fusion_gate" if gate is not None else "fusion_gate: left out, this fusion has no gate", "fusion_strength"]
    if gate is not None:
        gate_figure(timesteps, {"all images": gate}, out / lines[0], "mean |gate|")
    gate_figure(timesteps, strength, out / lines[1], "RMS of the fusion / RMS of conv_in")
    for layer, found in maps.items():
        usage = by_degradation(lambda each, layer=layer: each.usage[layer], np.sum)  # type: ignore[misc]
        numbers["expert_usage"][layer] = {
            name: dict(zip(found.experts, counts, strict=True)) for name, counts in usage.items()
        }
        lines.append(f"experts_usage_{layer.replace(' ', '_')}")
        expert_usage_figure(usage, found.experts, out / lines[-1])
    spread = np.unique(np.linspace(0, len(first) - 1, min(_MAPS, len(first))).round().astype(int))
    for name in [list(first)[index] for index in spread] if maps else ():
        lines.append(f"experts_map_{name}")
        expert_map_figure(image_array(samples[first[name]]["lq"]), observed[first[name]].maps, out / lines[-1])
    if not maps:
        lines.append("experts_usage, experts_map: left out, this model has no routed layer")
    if 2 <= len(first) < len(samples):
        numbers["silhouette"] = embedding_figure([each.feature for each in observed], labels, out / "lq_features")
        lines.append(f"lq_features: silhouette of the raw features {numbers['silhouette']:.3f}")
    else:
        lines.append("lq_features: left out, needs two degradations and more images than degradations")
    return lines, numbers


def _draw_sweep(
    model: UniLDiff, samples: Sequence[RestorationSample], out: Path, options: Options, protocol: Protocol
) -> tuple[list[str], dict[str, Any]]:
    """Restore some images at every setting; draw PSNR against steps and guidance, and all settings in the plane."""
    perception = options.perception
    scorers, unavailable = load_scorers(list(dict.fromkeys((*SCORED, perception))), protocol)
    taken: dict[str, list[RestorationSample]] = {}
    for sample in samples:
        taken.setdefault(sample["degradation"], []).append(sample)
    chosen = [sample for group in taken.values() for sample in group[: options.sweep_images]]
    captioned = all(sample["caption"] for sample in chosen)
    rows = sweep(model, chosen, sweep_points(options.guidance if captioned else (), options.steps), scorers)
    write_csv(rows, out / "sampling.csv")
    sweep_figure(rows, out / "sampling")
    lines = ["sampling" + ("" if captioned else ": without guidance, which has no effect without captions")]
    references: dict[str, list[Row]] = {}
    for sample in chosen:
        for label, image in reference_images(model, sample).items():
            row: Row = {"degradation": sample["degradation"], "name": sample["name"]}
            references.setdefault(label, []).append(row | score_image(image, sample["gt"], scorers, list(scorers)))
    plane = {label: summarise(members)["avg"] for label, members in references.items()}
    plane |= {f"{n} step{'s' * (n != 1)}, guidance {g:g}": scores for (n, g), scores in sweep_means(rows).items()}
    if perception in unavailable:
        lines.append(f"perception_distortion: left out, {perception}: {unavailable[perception]}")
    else:
        drawn = pd.DataFrame(plane).T[["psnr", perception]].astype(float)
        points = {str(label): (x, y) for label, x, y in drawn.itertuples() if np.isfinite((x, y)).all()}
        perception_distortion_figure(points, out / "perception_distortion", perception=METRICS[perception].title)
        lines.append("perception_distortion")
    return lines, {"settings": plane, "unavailable": unavailable}
