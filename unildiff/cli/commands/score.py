"""`unildiff score`: any method's pictures under any protocol."""

from pathlib import Path
from typing import Literal


def score(
    restored: Path,
    clean: Path,
    protocol: str = "unildiff",
    metrics: list[str] = ["psnr", "ssim"],  # noqa: B006  jsonargparse shows it as the default; never changed here
    csv: Path | None = None,
    json: Path | None = None,
    rule: Literal["exact", "prefix", "no-prefix"] = "exact",
    workers: int = 0,
) -> None:
    """Score a folder of restored pictures against the clean ones.

    Prints a table with the protocol and the number of pictures, and writes per-picture values if asked to. Pictures are
    paired by name, whatever their suffixes; one that is missing, left over or of another size is an error.

    Args:
        restored: Folder of restored pictures, or of one folder a degradation.
        clean: Folder of the clean pictures, or of folders named as those in `restored`.
        protocol: unildiff, promptir, moceir, onerestore, daclip, diffuir, pyiqa-y, basicsr-y, or all.
        metrics: Any of psnr, ssim, ms_ssim, gmsd, lpips, lpips_vgg, dists, fid, musiq, maniqa, clipiqa, niqe.
        csv: File for one line a picture.
        json: File for everything: the protocol's choices, means, counts, and each picture.
        rule: How a restored name leads to its clean one: the same; what stands before the first "_" (SOTS); "no" put in
            front (Rain100L).
        workers: Processes; 0 means one a core, fewer for few pictures.

    Raises:
        UserError: No such protocol or metric, folders that do not pair, an unreadable picture, or one too small.
    """
    from unildiff.metrics.protocols import PROTOCOLS, get_protocol
    from unildiff.results.file_pairs import find_pairs
    from unildiff.results.workers import process_count, worker_context
    from unildiff.utils.errors import UserError
    from unildiff.utils.files import input_folder

    protocols = list(PROTOCOLS.values()) if protocol == "all" else [get_protocol(protocol)]
    if workers < 0:
        raise UserError(f"--workers {workers}: give 0 for one a core, or a positive number")
    pairs = find_pairs(input_folder(restored, "the restored pictures"), input_folder(clean, "the clean pictures"), rule)
    if process_count(workers, len(pairs)) > 1:
        worker_context()  # loads beside what follows

    from unildiff.results.rows import write_csv
    from unildiff.results.score import score_pairs
    from unildiff.results.score_report import format_text, merge_rows, write_json

    scored = score_pairs(pairs, protocols, metrics, workers)
    print(f"{restored} against {clean}\n")
    print(format_text(scored))
    if csv is not None:
        write_csv(merge_rows(scored), csv)
    if json is not None:
        write_json(scored, restored, clean, json)
