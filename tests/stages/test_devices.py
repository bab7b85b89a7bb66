"""All tensors of a training step meet on the GPU, shown without one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.stages.steps import STAGES


def test_training_steps_leave_no_tensor_on_the_cpu() -> None:
    command = [sys.executable, "-m", "tests.stages.fake_gpu"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode < 0 and torch.version.cuda is None:
        pytest.skip(f"torch is built without CUDA and crashed on fake CUDA tensors (signal {-done.returncode})")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(STAGES)
