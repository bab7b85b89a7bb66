"""Scoring a folder of restored pictures against a folder of clean ones, under one protocol or several side by side.

Axis letters: H W pixels.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import cv2
import torch
from torch import Tensor

from unildiff.data.batch import image_tensor
from unildiff.data.images import read_rgb
from unildiff.metrics.perceptual import MetricUnavailable, NetworkScorer
from unildiff.metrics.protocols import Protocol
from unildiff.metrics.registry import Scorer, check_names, load_scorers, make_scorer, metric_info
from unildiff.results.evaluator import score_picture
from unildiff.results.file_pairs import ScoredPair
from unildiff.results.rows import Row, Summary, mean_of, summarise
from unildiff.results.workers import process_count, worker_context
from unildiff.utils.errors import UserError
from unildiff.utils.parallel import ordered, progress


@dataclass(frozen=True)
class Scored:
    """What one protocol makes of a folder.

    Attributes:
        protocol: What the numbers are measured under.
        metrics: The names asked for, in that order.
        rows: One a picture.
        summary: Means by degradation and `avg` (see :func:`unildiff.results.rows.summarise`), with metrics of sets.
        unavailable: Why a metric's column is empty, by name.
    """

    protocol: Protocol
    metrics: list[str]
    rows: list[Row]
    summary: Summary
    unavailable: dict[str, str]


def score_pairs(
    pairs: Sequence[ScoredPair], protocols: Sequence[Protocol], metrics: Sequence[str], workers: int = 0
) -> list[Scored]:
    """Score pictures under each protocol, reading each file once.

    Processes, not threads: the many short calls into OpenCV hand Python's lock over and over, which on a busy machine made
    two threads slower than one (measured).

    Args:
        pairs: From :func:`unildiff.results.file_pairs.find_pairs`.
        protocols: One or more.
        metrics: Names of registry.METRICS.
        workers: Processes; 0: one a core, fewer where there are few pictures; 1: none beside this one.

    Returns:
        One result a protocol, in their order.

    Raises:
        UserError: No such metric, an unreadable picture, or one too small for a protocol.
    """
    check_names(metrics)
    names = tuple(name for name in metrics if metric_info(name).kind != "set")
    _, unavailable = _scorers(names, tuple(protocols))  # known before the first picture
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
    """One row a protocol; runs in a worker process, which loads its metrics once."""
    scorers, _ = _scorers(names, protocols)
    restored, clean = _read(pair)
    label: Row = {"degradation": pair.degradation, "name": pair.name}
    try:
        return [label | score_picture(restored, clean, under, names) for under in scorers]
    except ValueError as error:
        raise UserError(f"cannot score {pair.restored}: {error}; leave out the metric or the picture") from None


@lru_cache(maxsize=1)
def _scorers(names: tuple[str, ...], protocols: tuple[Protocol, ...]) -> tuple[list[dict[str, Scorer]], dict[str, str]]:
    """The metrics under each protocol, sharing their networks, and why some are unavailable."""
    first, unavailable = load_scorers(names, protocols[0])
    return [
        {
            name: scorer.under(protocol) if isinstance(scorer, NetworkScorer) else make_scorer(name, protocol)
            for name, scorer in first.items()
        }
        for protocol in protocols
    ], unavailable


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _read(pair: ScoredPair) -> tuple[Tensor, Tensor]:
    restored, clean = image_tensor(read_rgb(pair.restored)), image_tensor(read_rgb(pair.clean))
    return restored, clean


def _add_fid(summary: Summary, pairs: Sequence[ScoredPair], protocol: Protocol) -> None:
    """Put FID into each degradation's entry, and its mean over degradations into `avg`.

    Raises:
        MetricUnavailable: The network cannot be had.
    """
    from unildiff.metrics.fid import FID  # torchmetrics takes seconds to import, and only this needs it

    fid = FID(protocol)
    values = []
    for degradation, entry in summary.items():
        members = [pair for pair in pairs if pair.degradation == degradation]
        if degradation == "avg" or len(members) < 2:  # a covariance needs two pictures
            continue
        fid.reset()
        for pair in progress(members, len(members), f"FID {degradation}".strip()):
            restored, clean = _read(pair)
            fid.update(restored[None], clean[None])
        entry["fid"] = float(fid.compute())
        values.append(entry["fid"])
    summary["avg"]["fid"] = mean_of(values)
