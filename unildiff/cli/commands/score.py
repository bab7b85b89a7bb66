"""`unildiff score`: any method's images under any protocol."""

from pathlib import Path
from typing import Literal

from unildiff.utils.errors import UserError
from unildiff.utils.validation import WorkerCount


def score(
    restored: Path,
    gt: Path,
    protocol: str | None = None,
    metrics: list[str] = ["psnr", "ssim"],  # noqa: B006  jsonargparse shows it as the default; never changed here
    csv: Path | None = None,
    json: Path | None = None,
    rule: Literal["exact", "prefix", "no-prefix"] = "exact",
    workers: WorkerCount = 0,
    input: Path | None = None,
    label: str | None = None,
    run_dir: Path | None = None,
    bundle: Path | None = None,
    images: bool = False,
    degradation: str | None = None,
    data: str | None = None,
    data_kind: Literal["real", "sample"] | None = None,
    blind: bool | None = None,
) -> None:
    """Score a folder of restored images against the ground truth.

    Prints a table with the protocol and the number of images, and writes per-image values if requested. Images are paired
    by name, whatever their suffixes; one that is missing, left over or of another size is an error.

    Args:
        restored: Folder of restored images, or of one folder per degradation.
        gt: Folder of ground truth images, or of folders named as those in `restored`.
        protocol: unildiff, promptir, moceir (moceir-cdd11 on CDD-11), onerestore, daclip, diffuir, pyiqa-y, foundir,
            basicsr-y, instructir, or all. By default the one that `unildiff test` uses on the same dataset: of --data, or
            onerestore if the folders are named as CDD-11's degradations; unildiff otherwise.
        metrics: Any of psnr, ssim, ms_ssim, gmsd, lpips, lpips_vgg, dists, fid, musiq, maniqa, clipiqa, niqe, and any name
            of pyiqa's where it is installed (pyiqa:NAME where the name is also ours).
        csv: File for one line per image.
        json: File for everything: the protocol's choices, means, counts, and each image.
        rule: How a restored name leads to its ground truth: the same; the part before the first "_" (SOTS); "no" put in
            front (Rain100L).
        workers: Processes; 0 means one per core, fewer for few images.
        input: Folder of the degraded images, named as those in `restored`: they are scored too.
        label: Name of the method in tables; by default the name of the folder.
        run_dir: Folder to write that `unildiff table`, `compare` and `report` take.
        bundle: Zip to write with scores, protocol, versions and the hash of every file; `unildiff table` reads it.
        images: Also put the images into run_dir (PNGs) and the restored images into the bundle.
        degradation: Name of the degradation of a flat folder, e.g. rain, for the tables.
        data: Name of the dataset, e.g. cdd11, for the tables; by default that of the sample set that holds GT.
        data_kind: Whether the images are the real dataset's or a sample set's, for the tables; known where GT is in one.
        blind: Whether the method was not told the degradation, for the tables.

    Raises:
        UserError: There is no such protocol or metric, folders do not pair, or an image cannot be read or is too small.
    """
    from dataclasses import replace

    from unildiff.data.catalogue import default_protocol
    from unildiff.data.layouts import sample_of
    from unildiff.metrics.names import check_names
    from unildiff.metrics.protocols import PROTOCOLS, chosen_protocol, get_protocol
    from unildiff.results.file_pairs import find_pairs
    from unildiff.results.workers import process_count, worker_context
    from unildiff.utils.files import input_folder, output_file, output_folder

    for file in (csv, json, bundle):
        if file is not None:
            output_file(file)  # known before the work whose result it holds

    check_names(metrics)
    if protocol not in (None, "all"):
        get_protocol(protocol)
    if protocol == "all" and (run_dir or bundle):
        raise UserError("--protocol all has no run_dir and no bundle; choose one protocol")
    if images and not (run_dir or bundle):
        raise UserError("--images needs --run_dir or --bundle to put them into")
    inputs = None if input is None else input_folder(input, "the degraded images")
    pairs = find_pairs(
        input_folder(restored, "the restored images"), input_folder(gt, "the ground truth"), rule, inputs
    )
    if degradation is not None:
        if any(pair.degradation for pair in pairs):
            raise UserError(f"--degradation {degradation}: {restored} has a folder per degradation; leave it out")
        pairs = [replace(pair, degradation=degradation) for pair in pairs]
    if run_dir is not None:
        output_folder(run_dir)
    samples = (sample_of(folder) for folder in (gt.resolve(), *gt.resolve().parents))
    if (sample := next(filter(None, samples), None)) is not None:
        data, data_kind = data or sample, data_kind or "sample"
    name = chosen_protocol(protocol, default_protocol(data, {pair.degradation for pair in pairs}))
    protocols = list(PROTOCOLS.values()) if name == "all" else [get_protocol(name)]
    if process_count(workers, len(pairs)) > 1:
        worker_context()  # loads during the following imports

    from unildiff.metrics.rows import write_csv
    from unildiff.results.score import score_pairs
    from unildiff.results.score_report import Method, bundle_scores, format_text, merge_rows, write_json, write_run

    scored = score_pairs(pairs, protocols, metrics, workers)
    print(f"{restored} against {gt}\n")
    print(format_text(scored))
    if csv is not None:
        write_csv(merge_rows(scored), csv)
    if json is not None:
        write_json(scored, restored, gt, json)
    method = Method(label or restored.resolve().name, data, data_kind, blind)
    if run_dir is not None:
        write_run(scored[0], method, pairs, run_dir, images)
        print(f"run: {run_dir}; `unildiff table` takes it")
    if bundle is not None:
        bundle_scores(scored[0], method, pairs, bundle, images)
        print(f"bundle: {bundle} ({bundle.stat().st_size / 2**10:.0f} KiB)")
