"""`unildiff compare`: two runs image by image."""

from pathlib import Path


def compare(
    first: Path,
    second: Path,
    metrics: list[str] = ["psnr", "ssim"],  # noqa: B006  jsonargparse shows it as the default; never changed here
    csv: Path | None = None,
) -> None:
    """Compare two runs on the same images: mean difference, 95% bootstrap interval and sign test by degradation.

    Args:
        first: A folder that `unildiff test` wrote, a bundle, or a file that `unildiff score` wrote with --csv or --json.
        second: The same, of the other run; differences are second minus first.
        metrics: Columns that both have.
        csv: File for one line per image with both values and their difference.

    Raises:
        UserError: The runs have different images or protocols, or lack a metric.
    """
    from unildiff.results.compare import comparison_text, pair_runs, write_differences
    from unildiff.results.runs import load_run

    runs = load_run(first), load_run(second)
    paired = pair_runs(*runs, metrics)
    print(comparison_text(*runs, paired))
    if csv is not None:
        write_differences(paired, csv)
