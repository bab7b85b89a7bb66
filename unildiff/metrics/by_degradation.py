"""Means per degradation as a torchmetrics Metric, for validation loops.

Axis letters: B batch, H W pixels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from unildiff.metrics.protocols import Protocol, get_protocol
from unildiff.metrics.registry import load_scorers

_Tally = dict[str, list[float]]  # metric -> [sum, images in the sum]; "count" -> [images]


class DegradationMetrics(Metric):
    """Means per degradation, and their unweighted mean over degradations (the papers' `Avg.`).

    Degradations need not be known beforehand, and ranks may have seen different ones or none: the sums are gathered as
    objects in `compute`, which every rank must call. Memory is constant. Use `update` and `compute`; `forward` is the
    same as `update` and returns nothing.

    torchmetrics' own classes are not used: its PSNR pools squared errors over images by default (14.23 dB where the mean
    per image is 17.57), and its SSIM differs from the protocol `onerestore` by up to 0.037.

    Attributes:
        unavailable: By name, why a requested metric cannot be computed; it has no keys in the result.
    """

    full_state_update = False

    def __init__(self, protocol: str | Protocol = "unildiff", metrics: Sequence[str] = ("psnr", "ssim")) -> None:
        """Create the metric.

        Args:
            protocol: Protocol or its name.
            metrics: Names of per-image metrics.

        Raises:
            UserError: No such protocol or metric.
        """
        super().__init__(sync_on_compute=False)
        self.protocol = get_protocol(protocol)
        self._scorers, self.unavailable = load_scorers(metrics, self.protocol)
        networks = {
            name.replace(".", "_"): scorer for name, scorer in self._scorers.items() if isinstance(scorer, nn.Module)
        }
        self.networks = nn.ModuleDict(networks)  # they move with the metric
        self._tallies: dict[str, _Tally] = {}

    def update(self, restored: Tensor, gt: Tensor, degradations: Sequence[str]) -> None:
        """Add a batch.

        Args:
            restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
            gt: The same shape.
            degradations: B names.

        Raises:
            ValueError: Wrong shapes, dtypes, ranges or number of names, or images too small for a metric.
        """
        if len(degradations) != len(restored):
            raise ValueError(f"{len(restored)} images, but {len(degradations)} degradation names")
        values = {name: scorer(restored, gt).tolist() for name, scorer in self._scorers.items()}
        for index, degradation in enumerate(degradations):
            self.add_scores(degradation, {name: scores[index] for name, scores in values.items()})

    def add_scores(self, degradation: str, scores: Mapping[str, float | None]) -> None:
        """Add one image that has been scored already; None and infinite values have no part in the means.

        Args:
            degradation: Its degradation.
            scores: Value by the name of the metric; names that this object does not have are ignored.
        """
        tally = self._tallies.setdefault(degradation, {})
        for name in self._scorers:
            value = scores.get(name)
            if value is not None and value != float("inf"):
                _add(tally, name, [value, 1.0])
        _add(tally, "count", [1.0])

    def forward(self, restored: Tensor, gt: Tensor, degradations: Sequence[str]) -> None:
        """Same as `update`."""
        self.update(restored, gt, degradations)

    def compute(self) -> dict[str, float]:
        """The means over all ranks.

        Returns:
            `METRIC/DEGRADATION` and `count/DEGRADATION` for each degradation, `METRIC/avg`, and `count/all`. A mean
            over images that the protocol all leaves out (identical to their ground truth) is infinite.
        """
        tallies = self._gathered()
        result: dict[str, float] = {}
        for name in self._scorers:
            means = []
            for degradation in sorted(tallies):
                total, scored = tallies[degradation].get(name, [float("inf"), 1.0])
                means.append(total / scored)
                result[f"{name}/{degradation}"] = means[-1]
            if means:
                result[f"{name}/avg"] = sum(means) / len(means)
        for degradation in sorted(tallies):
            result[f"count/{degradation}"] = tallies[degradation]["count"][0]
        result["count/all"] = sum(tally["count"][0] for tally in tallies.values())
        return result

    def reset(self) -> None:
        """Forget all images that were added."""
        super().reset()
        self._tallies = {}

    def _gathered(self) -> dict[str, _Tally]:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self._tallies
        parts: list[dict[str, _Tally]] = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(parts, self._tallies)
        merged: dict[str, _Tally] = {}
        for part in parts:
            for degradation, tally in part.items():
                for name, numbers in tally.items():
                    _add(merged.setdefault(degradation, {}), name, numbers)
        return merged


def _add(tally: _Tally, name: str, numbers: list[float]) -> None:
    before = tally.get(name, [0.0] * len(numbers))
    tally[name] = [a + b for a, b in zip(before, numbers, strict=True)]
