"""Runs `unildiff fit` in this process and prints by how many bytes its memory grew beyond what imports take."""

import gc
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from unildiff.cli.main import main


def memory(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    arguments = sys.argv[1:]
    small = ["--data.batch_size=1", "--data.crop_size=64", "--trainer.max_steps=1"]
    with TemporaryDirectory() as folder:  # once at no size: what is imported on the way, and pools that stay
        main([*arguments, *small, f"--run_dir={folder}/small"])
        gc.collect()
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        code = main([*arguments, f"--run_dir={folder}/run"])
    print(f"grew {memory('VmHWM') - before}")
    sys.exit(code)
