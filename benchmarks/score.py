"""`unildiff score` on 200 pictures of 512x512: cores in use and memory, all its processes together.

Run: python benchmarks/score.py [PICTURES]
Goal (issue 6): both cores, under 2 GiB. Exits with 1 where the memory is above it or a run fails; cores in use are printed
and depend on what else runs on the machine.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from skimage import data

PICTURES = 200
LIMIT_MIB = 2048


def descendants(pid):
    """A process and all below it; each of its threads may have started some."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in children.read_text().split()]
        except OSError:  # the thread has ended
            continue
    return [pid, *(below for child in found for below in descendants(child))]


def proportional_mib(pid):
    """Memory of a process, pages shared with others counted in part."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


def processor_seconds(pid):
    """User and system time of a process; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        restored, clean = Path(folder, "restored"), Path(folder, "clean")
        restored.mkdir()
        clean.mkdir()
        rng = np.random.default_rng(0)
        for index in range(pictures):
            truth = np.roll(data.astronaut(), 7 * index, axis=1)
            noisy = np.clip(cv2.GaussianBlur(truth, (0, 0), 1.2) + rng.normal(0, 8, truth.shape), 0, 255)
            cv2.imwrite(str(clean / f"{index:03}.png"), truth)
            cv2.imwrite(str(restored / f"{index:03}.png"), noisy.round().astype(np.uint8))
        worst = 0.0
        for workers in ("1", "0"):
            start, seconds = time.perf_counter(), {}
            command = [sys.executable, "-m", "unildiff", "score", str(restored), str(clean), "--workers", workers]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            peak = 0.0
            while process.poll() is None:
                alive = descendants(process.pid)
                peak = max(peak, sum(proportional_mib(pid) for pid in alive))
                seconds |= {pid: processor_seconds(pid) for pid in alive if processor_seconds(pid)}
                time.sleep(0.05)
            wall, cpu = time.perf_counter() - start, sum(seconds.values())
            worst, failed = max(worst, peak), failed or process.returncode != 0
            print(
                f"--workers {workers}: {pictures} pictures in {wall:.1f} s, {cpu:.1f} s of processor time in all "
                f"({cpu / wall:.2f} cores), peak {peak:.0f} MiB, exit code {process.returncode}; load {os.getloadavg()[0]:.1f}"
            )
    return int(failed or worst > LIMIT_MIB)


if __name__ == "__main__":
    raise SystemExit(main())
