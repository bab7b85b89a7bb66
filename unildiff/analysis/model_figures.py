"""The figures of a model on a data set: restores, watches, scores, draws, and writes the numbers beside the pictures.

Axis letters: H/W pixels, T sampling steps, E experts, F channels of the LQ feature.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unildiff.analysis.figures import (
    embedding_figure,
    expert_map_figure,
    expert_usage_figure,
    gate_figure,
)
from unildiff.analysis.inspection import Inside, look_inside, reference_pictures
from unildiff.analysis.sweeps import PAPER, SCORED, Setting, means, settings, sweep, sweep_figure
from unildiff.core.model import UniLDiff
from unildiff.data.batch import RestorationSample, image_array
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.protocols import Protocol, get_protocol
from unildiff.metrics.registry import METRICS, load_scorers
from unildiff.metrics.rows import Row, summarise
from unildiff.results.evaluator import score_picture
from unildiff.results.figures import perception_distortion_figure
from unildiff.utils import datamodules
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_whole
from unildiff.utils.parallel import progress
from unildiff.weights.load import check_sampling

_MAPS = 3  # degradations whose expert maps are drawn, evenly spread over the list


@dataclass(frozen=True)
class Options:
    """What is drawn.

    Attributes:
        sampling: steps and start while the model is looked into.
        steps: numbers of steps to compare, at the paper's guidance.
        guidance: guidance scales to compare, at the paper's steps.
        perception: metric of the perception-distortion plane.
        sweep_pictures: pictures of each degradation for the comparisons.
    """

    sampling: SamplingSettings
    steps: tuple[int, ...]
    guidance: tuple[float, ...]
    perception: str
    sweep_pictures: int


def test_samples(
    data: str, root: Path | None, pictures: int, side: int, seed: int
) -> tuple[list[RestorationSample], dict[str, Any]]:
    """Return the first pictures by name of each degradation of a test set, cut to their centre, and what they are.

    Args:
        data: short name of a datamodule.
        root: its folder; None: its own.
        pictures: of each degradation.
        side: pixels; larger pictures are cut to their centre.
        seed: of the test noise.

    Raises:
        UserError: no such data set, it cannot be read, or a number is not positive.
    """
    if pictures < 1 or side < 16:
        raise UserError(f"figures: pictures {pictures}, side {side}; give at least 1 and 16")
    given = {} if root is None else {"root": str(root)}
    try:
        datamodule = datamodules.constructor(data)(test_seed=seed, num_workers=0, **given)
    except TypeError:
        raise UserError(f"figures: {data} takes no root; leave out --root") from None
    test = datamodule.test_set()
    chosen: dict[str, list[int]] = {}
    for index in sorted(range(len(test)), key=lambda index: str(test.pairs[index].name)):
        chosen.setdefault(test.pairs[index].degradation, []).append(index)
    order = list(dict.fromkeys(pair.degradation for pair in test.pairs))
    samples = [_centre(test[index], side) for degradation in order for index in chosen[degradation][:pictures]]
    about = {"data": data, "data_kind": "sample" if datamodule.is_sample else "real", "protocol": datamodule.protocol}
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
    """Draw every figure that this model and these pictures allow, and write ``figures.json``.

    Args:
        model: in evaluation mode.
        samples: pictures of one or more degradations.
        out: folder; it is made.
        options: what is drawn.
        about: provenance for ``figures.json``; its ``protocol`` is what PSNR is measured under.

    Returns:
        One line a figure: its name, or why it is left out.

    Raises:
        UserError: no such metric or steps, no pictures to sweep over, or the folder cannot be written.
    """
    if options.sweep_pictures < 1:
        raise UserError(f"figures: sweep_pictures {options.sweep_pictures}; give at least 1")
    check_sampling(model, options.sampling, "figures")
    for number in options.steps:
        check_sampling(model, replace(PAPER, num_inference_steps=number), "figures, steps")
    protocol = get_protocol(str(about["protocol"]))
    info = METRICS.get(options.perception)
    if info is None or info.higher_is_better or info.kind == "set":
        usable = [name for name, each in METRICS.items() if not each.higher_is_better and each.kind != "set"]
        raise UserError(
            f"perception: '{options.perception}' is no metric with lower as better; choose {', '.join(usable)}"
        )
    output_folder(out)
    inside = [
        look_inside(model, sample, options.sampling) for sample in progress(samples, len(samples), "Looking inside")
    ]
    lines, numbers = _draw_inside(samples, inside, out)
    swept, points = _draw_sweep(model, samples, out, options, protocol)
    content = {**about, "steps": options.sampling.num_inference_steps, "pictures": len(samples), **numbers, **points}
    write_whole(out / "figures.json", (json.dumps(_plain(content), indent=1, allow_nan=False) + "\n").encode())
    return [*lines, *swept, "figures.json"]


def _draw_inside(
    samples: Sequence[RestorationSample], inside: Sequence[Inside], out: Path
) -> tuple[list[str], dict[str, Any]]:
    lines: list[str] = []
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample["degradation"], []).append(index)
    timesteps, gate = inside[0].timesteps, inside[0].gate
    strength = {name: np.mean([inside[i].strength for i in group], axis=0) for name, group in groups.items()}
    numbers: dict[str, Any] = {"timesteps": timesteps, "gate": gate, "fusion_strength": strength}
    if gate is None:
        lines.append("fusion_gate: left out, this fusion has no gate")
    else:
        gate_figure(timesteps, {"all pictures": gate}, out / "fusion_gate")
        lines.append("fusion_gate")
    quantity = "RMS of the fusion / RMS of conv_in"
    gate_figure(timesteps, strength, out / "fusion_strength", quantity=quantity)
    lines.append("fusion_strength")
    numbers["expert_usage"] = {}
    for layer, found in inside[0].maps.items():
        usage = {name: np.sum([inside[i].usage[layer] for i in group], axis=0) for name, group in groups.items()}
        numbers["expert_usage"][layer] = {
            name: dict(zip(found.experts, counts, strict=True)) for name, counts in usage.items()
        }
        lines.append(f"experts_usage_{layer.replace(' ', '_')}")
        expert_usage_figure(usage, found.experts, out / lines[-1])
    if inside[0].maps:
        spread = np.unique(np.linspace(0, len(groups) - 1, min(_MAPS, len(groups))).round().astype(int))
        for name in [list(groups)[index] for index in spread]:
            first = groups[name][0]
            lines.append(f"experts_map_{name}")
            expert_map_figure(image_array(samples[first]["lq"]), inside[first].maps, out / lines[-1])
    else:
        lines.append("experts_usage, experts_map: left out, this model has no routed layer")
    if 2 <= len(groups) < len(samples):
        labels = [sample["degradation"] for sample in samples]
        numbers["silhouette"] = embedding_figure([each.feature for each in inside], labels, out / "lq_features")
        lines.append(f"lq_features: silhouette of the raw features {numbers['silhouette']:.3f}")
    else:
        lines.append("lq_features: left out, needs two degradations and more pictures than those")
    return lines, numbers


def _draw_sweep(
    model: UniLDiff, samples: Sequence[RestorationSample], out: Path, options: Options, protocol: Protocol
) -> tuple[list[str], dict[str, Any]]:
    """Restore some pictures at every setting; draw PSNR against steps and guidance, and all of it in the plane."""
    _, unavailable = load_scorers([options.perception], protocol)
    metrics = list(dict.fromkeys([*SCORED, *([] if unavailable else [options.perception])]))
    taken: dict[str, list[RestorationSample]] = {}
    for sample in samples:
        taken.setdefault(sample["degradation"], []).append(sample)
    chosen = [sample for group in taken.values() for sample in group[: options.sweep_pictures]]
    captioned = all(sample["caption"] for sample in chosen)
    (out / "sampling.csv").unlink(missing_ok=True)  # of another protocol, perhaps: a sweep goes on with what it finds
    points = settings(options.guidance if captioned else (), options.steps)
    rows = sweep(model, chosen, points, out / "sampling.csv", protocol.name, metrics)
    sweep_figure(rows, out / "sampling")
    note = "" if captioned else ": without guidance, which has no effect without captions"
    lines = [f"sampling{note}"]
    plane = {_label(point): scores for point, scores in means(rows).items()}
    plane = _references(model, chosen, metrics, protocol) | plane
    if unavailable:
        lines.append(f"perception_distortion: left out, {options.perception}: {unavailable[options.perception]}")
    else:
        points_drawn = {label: (each["psnr"], each[options.perception]) for label, each in plane.items()}
        points_drawn = {label: point for label, point in points_drawn.items() if all(map(math.isfinite, point))}
        title = METRICS[options.perception].title
        perception_distortion_figure(points_drawn, out / "perception_distortion", perception=title)
        lines.append("perception_distortion")
    return lines, {"settings": plane, "unavailable": unavailable}


def _references(
    model: UniLDiff, samples: Sequence[RestorationSample], metrics: Sequence[str], protocol: Protocol
) -> dict[str, dict[str, float]]:
    scorers, _ = load_scorers(metrics, protocol)
    rows: dict[str, list[Row]] = {}
    for sample in samples:
        for label, picture in reference_pictures(model, sample).items():
            row: Row = {"degradation": sample["degradation"], "name": sample["name"]}
            rows.setdefault(label, []).append(row | score_picture(picture, sample["gt"], scorers, metrics))
    means_of = {label: summarise(members)["avg"] for label, members in rows.items()}
    return {
        label: {name: math.nan if value is None else value for name, value in each.items()}
        for label, each in means_of.items()
    }


def _label(point: Setting) -> str:
    return f"{point.steps} step{'s' * (point.steps != 1)}, guidance {point.guidance:g}"


def _plain(value: Any) -> Any:
    """Arrays as lists; what is not finite as null, which JSON knows."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
