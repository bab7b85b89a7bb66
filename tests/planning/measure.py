"""Runs `unildiff fit` in this process and prints the growth of its memory in bytes, without imports."""

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
    with TemporaryDirectory() as folder:  # once at a minimal size, for late imports and permanent memory pools
        main([*arguments, *small, f"--run_dir={folder}/small"])
        gc.collect()
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        code = main([*arguments, f"--run_dir={folder}/run"])
    print(f"grew {memory('VmHWM') - before}")
    sys.exit(code)
