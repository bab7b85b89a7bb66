"""``unildiff compare``: two runs, image by image."""

from pathlib import Path


def compare(
    first: Path,
    second: Path,
    metrics: list[str] = ["psnr", "ssim"],  # noqa: B006  jsonargparse shows it as the default; never changed here
    csv: Path | None = None,
) -> None:
    """Compare two runs on the same pictures: mean difference, 95% bootstrap interval and sign test by degradation.

    Args:
        first: a folder that `unildiff test` wrote, or a file that `unildiff score` wrote with --csv or --json.
        second: the same, of the other run; differences are second minus first.
        metrics: columns that both have.
        csv: file for one line a picture with both values and their difference.

    Raises:
        UserError: other pictures, another protocol, or no such metric.
    """
    from unildiff.results.compare import comparison_text, pair_scores, read_scores, write_differences

    scores = read_scores(first), read_scores(second)
    paired = pair_scores(*scores, metrics)
    print(comparison_text(*scores, paired))
    if csv is not None:
        write_differences(paired, csv)
