"""``unildiff report``: runs as one HTML file."""

from pathlib import Path


def report(run_dirs: list[Path], out: Path = Path("report.html")) -> None:
    """Write one self-contained HTML file about runs: tables, curves, figures, sliders, worst cases, how it was made.

    Args:
        run_dirs: Folders that `unildiff fit` or `unildiff test` wrote.
        out: The file to write.
    """
    from unildiff.results.report import write_report

    write_report(run_dirs, out)
    print(f"{out} ({out.stat().st_size / 2**20:.1f} MiB): open it in a browser")
