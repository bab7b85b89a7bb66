"""Score a folder of restored images against the ground truth, under one protocol or several side by side.

Axis letters: H W pixels.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import torch
from torch import Tensor

from unildiff.data.batch import image_tensor
from unildiff.data.images import read_rgb
from unildiff.metrics.names import check_names, metric_info
from unildiff.metrics.perceptual import MetricUnavailable, NetworkScorer
from unildiff.metrics.protocols import Protocol
from unildiff.metrics.registry import Scorer, load_scorers, make_scorer
from unildiff.metrics.rows import Row, Summary, summarise
from unildiff.results.evaluator import score_image
from unildiff.results.file_pairs import ScoredPair
from unildiff.results.workers import process_count, worker_context
from unildiff.utils.errors import UserError
from unildiff.utils.parallel import end_with_parent, ordered, progress


@dataclass(frozen=True)
class Scored:
    """The scores of a folder under one protocol.

    Attributes:
        protocol: The protocol.
        metrics: The requested metrics, in that order.
        rows: One per image; `input_` columns where inputs were given.
        summary: Means by degradation and `avg` (see :func:`unildiff.metrics.rows.means`), with metrics of sets.
        unavailable: By name, why a metric's column is empty.
    """

    protocol: Protocol
    metrics: list[str]
    rows: list[Row]
    summary: Summary
    unavailable: dict[str, str]


def score_pairs(
    pairs: Sequence[ScoredPair], protocols: Sequence[Protocol], metrics: Sequence[str], workers: int = 0
) -> list[Scored]:
    """Score images under each protocol, reading each file once.

    Processes, not threads: many short calls into OpenCV compete for Python's lock, which on a busy machine made two threads
    slower than one (measured).

    Args:
        pairs: From :func:`unildiff.results.file_pairs.find_pairs`.
        protocols: One or more.
        metrics: Names of metrics.
        workers: Processes; 0: one per core, fewer for few images; 1: only this one.

    Returns:
        One result per protocol, in their order.

    Raises:
        UserError: There is no such metric, an image cannot be read, or one is too small for a protocol.
    """
    check_names(metrics)
    names = tuple(name for name in metrics if metric_info(name).kind != "set")
    _, unavailable = _scorers(names, tuple(protocols))  # known before the first image
    work = partial(_score_pair, names, tuple(protocols))
    processes = process_count(workers, len(pairs))
    if processes == 1:
        rows = [work(pair) for pair in progress(pairs, len(pairs), "scoring")]
    else:
        with ProcessPoolExecutor(processes, mp_context=worker_context(), initializer=_one_thread) as pool:
            results = ordered(pool, work, pairs, ahead=4 * processes)
            rows = [found for _, found in progress(results, len(pairs), "scoring")]
    _scorers.cache_clear()
    scored = []
    for index, protocol in enumerate(protocols):
        own = [found[index] for found in rows]
        summary = summarise(own)
        if "fid" in metrics and "fid" not in unavailable:
            try:
                _add_fid(summary, pairs, protocol)
            except MetricUnavailable as error:
                unavailable["fid"] = error.reason
        scored.append(Scored(protocol, list(metrics), own, summary, unavailable))
    return scored


def _score_pair(names: tuple[str, ...], protocols: tuple[Protocol, ...], pair: ScoredPair) -> list[Row]:
    """Return one row per protocol; runs in a worker process, which loads its metrics once."""
    scorers, _ = _scorers(names, protocols)
    restored, gt = _read(pair.restored), _read(pair.gt)
    lq = None if pair.input is None else _read(pair.input)
    label: Row = {"degradation": pair.degradation, "name": pair.name}
    try:
        return [label | score_image(restored, gt, under, names, lq) for under in scorers]
    except ValueError as error:
        raise UserError(f"cannot score {pair.restored}: {error}; leave out the metric or the image") from None


@lru_cache(maxsize=1)
def _scorers(names: tuple[str, ...], protocols: tuple[Protocol, ...]) -> tuple[list[dict[str, Scorer]], dict[str, str]]:
    """Return the metrics under each protocol, sharing their networks, and why some are unavailable."""
    first, unavailable = load_scorers(names, protocols[0])
    return [
        {
            name: scorer.under(protocol) if isinstance(scorer, NetworkScorer) else make_scorer(name, protocol)
            for name, scorer in first.items()
        }
        for protocol in protocols
    ], unavailable


def _one_thread() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _read(path: Path) -> Tensor:
    return image_tensor(read_rgb(path))


def _add_fid(summary: Summary, pairs: Sequence[ScoredPair], protocol: Protocol) -> None:
    """Put FID into each degradation's entry, and its mean over degradations into `avg`."""
    from unildiff.metrics.fid import FID  # torchmetrics takes seconds to import, and only this needs it

    fid = FID(protocol)
    values: list[float] = []
    for degradation, entry in summary.items():
        members = [pair for pair in pairs if pair.degradation == degradation]
        if degradation == "avg" or len(members) < 2:  # a covariance needs two images
            continue
        fid.reset()
        for pair in progress(members, len(members), f"FID {degradation}".strip()):
            fid.update(_read(pair.restored)[None], _read(pair.gt)[None])
        values.append(float(fid.compute()))
        entry["fid"] = values[-1]
    summary["avg"]["fid"] = sum(values) / len(values) if values else None
