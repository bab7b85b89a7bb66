"""Means per degradation as a torchmetrics Metric, for validation and test loops.

Axis letters: B batch, H W pixels.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchmetrics import Metric

from unildiff.metrics.protocols import Protocol, get_protocol
from unildiff.metrics.registry import load_scorers
from unildiff.metrics.rows import Row, frame_of, means, rows_of_all_ranks


class DegradationMetrics(Metric):
    """Means per degradation, and their unweighted mean over degradations (the papers' `Avg.`).

    Degradations need not be known in advance, and ranks may have seen different ones. Scores are gathered in `compute`,
    which every rank must call.

    torchmetrics' own classes are not used: its PSNR pools squared errors over images by default (14.23 dB where the mean
    per image is 17.57), and its SSIM differs from the protocol `onerestore` by up to 0.037.

    Attributes:
        unavailable: By name, why a requested metric cannot be computed; it has no keys in the result.
    """

    full_state_update = False

    def __init__(self, protocol: str | Protocol = "unildiff", metrics: Sequence[str] = ("psnr", "ssim")) -> None:
        """Create the metric; raises a UserError for an unknown protocol or metric.

        Args:
            protocol: Protocol or its name.
            metrics: Names of per-image metrics.
        """
        super().__init__(sync_on_compute=False)
        self.protocol = get_protocol(protocol)
        self._scorers, self.unavailable = load_scorers(metrics, self.protocol)
        networks = {name.replace(".", "_"): each for name, each in self._scorers.items() if isinstance(each, nn.Module)}
        self.networks = nn.ModuleDict(networks)  # they move with the metric
        self._rows: list[Row] = []

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
        """Add one image that has been scored already; names that this metric does not have are ignored."""
        self._rows.append({"degradation": degradation, "name": ""} | {name: scores.get(name) for name in self._scorers})

    def forward(self, restored: Tensor, gt: Tensor, degradations: Sequence[str]) -> None:
        """Do the same as `update`."""
        self.update(restored, gt, degradations)

    def compute(self) -> dict[str, float]:
        """Return :func:`unildiff.metrics.rows.means` over all ranks.

        The keys are `METRIC/DEGRADATION` and `count/DEGRADATION` for each degradation, `METRIC/avg`, and `count/all`.
        """
        rows = sorted(rows_of_all_ranks(self._rows), key=lambda row: str(row["degradation"]))
        result = {
            f"{column}/{degradation}": float(value)
            for column, values in means(frame_of(rows)).items()
            for degradation, value in values.items()
        }
        return result | {"count/all": result.pop("count/avg")}

    def reset(self) -> None:
        """Forget all images that were added."""
        super().reset()
        self._rows = []
