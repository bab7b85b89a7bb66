"""`unildiff report`: runs as one HTML file."""

from pathlib import Path


def report(
    run_dirs: list[Path],
    out: Path = Path("report.html"),
    data_root: list[Path] = [],  # noqa: B006  jsonargparse shows it as the default; never changed here
) -> None:
    """Write one self-contained HTML file about runs: tables, curves, figures, sliders, worst cases, how it was made.

    Args:
        run_dirs: Folders that `unildiff fit`, `unildiff test` or `unildiff score --run_dir` wrote.
        out: The file to write.
        data_root: Folders of datasets whose images the scores name; other files outside of the runs are not embedded.
    """
    from unildiff.results.report import write_report
    from unildiff.utils.files import input_folder

    write_report(run_dirs, out, [input_folder(root, "the images of a dataset") for root in data_root])
    print(f"{out} ({out.stat().st_size / 2**20:.1f} MiB): open it in a browser")
