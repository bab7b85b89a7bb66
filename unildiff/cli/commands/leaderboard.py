"""`unildiff leaderboard`: score bundles as one static page."""

import sys
from pathlib import Path


def leaderboard(folder: Path, out: Path = Path("leaderboard.html")) -> None:
    """Write a static HTML page that ranks the score bundles of a folder, one table per dataset and protocol.

    Args:
        folder: Folder of bundles that `unildiff score --bundle` wrote.
        out: The file to write.
    """
    from unildiff.results.leaderboard import write_leaderboard

    for line in write_leaderboard(folder, out):
        print(f"unildiff: not read: {line}", file=sys.stderr)
    print(f"{out}: open it in a browser")
