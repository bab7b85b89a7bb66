"""How long commands that do nothing heavy take to start, beyond Python itself."""

import subprocess
import sys

from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate

COMMANDS = {"unildiff --help": (["--help"], 1.5), "unildiff data list": (["data", "list"], 1.0)}


def rows(effort: Effort) -> list[Row]:
    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    ours = {name: lambda given=given: run("-m", "unildiff", *given) for name, (given, _) in COMMANDS.items()}
    bare = {"limit": lambda: run("-c", "pass")}
    # What peers' scripts import before they read their arguments.
    peer = {"peer": lambda: run("-c", "import torch, lightning.pytorch, diffusers")}
    seconds = alternate(ours | bare | ({} if effort.small else peer), effort.rounds)
    return [
        seconds_row(
            f"start: {name}", seconds | {"ours": seconds[name]}, limit_is='python -c "pass"',
            peer_way="torch, Lightning and diffusers imported first" if "peer" in seconds else "",
            goal=Goal(COMMANDS[name][1], "seconds above limit"),
        )
        for name in COMMANDS
    ]  # fmt: skip
