"""Real stages resume exactly, like the toy of test_checkpointing.py."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.callbacks.runs import real_stage, run, same_end
from tests.callbacks.toy import ToyData
from tests.processes import process_context
from tests.stages.steps import NETWORK
from tests.stages.test_two_processes import TOKENS
from unildiff.callbacks import Checkpointing
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.utils.errors import UserError

# 7 batches per epoch, of which 6 make two steps of 3: steps end after batches 3, 6, 9, 12. Warm-up of one step.
LOOP: dict[str, Any] = {"max_steps": 4, "accumulate_grad_batches": 3}
COSINE, CONSTANT = (OptimizerConfig(1e-3, 5e-4, 0.01, 1, schedule) for schedule in ("cosine", "constant"))
STAGES: dict[
    str, dict[str, Any]
] = {  # router noise in two of them, recomputation in all, a schedule without an end in one
    "alignment": {"network": TOKENS, "optimizer": CONSTANT},
    "joint": {"network": NETWORK, "optimizer": COSINE},
    "decoder": {"network": NETWORK, "optimizer": COSINE},
}


def stage(kind: str, base_folder: Path) -> Any:
    return real_stage(kind, base_folder, gradient_checkpointing=True, **STAGES[kind])


def images() -> ToyData:
    return ToyData(size=32)


@pytest.fixture(scope="module")
def wholes(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the final state of each stage that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: run(folder / kind, module=stage(kind, base_folder), data=images(), **LOOP) for kind in STAGES}


def killed(folder: Path, base_folder: Path, kind: str) -> None:
    """Train, and exit at once in batch 10, the second of the fourth step."""
    torch.set_num_threads(1)
    module = stage(kind, base_folder)

    def strike(module: Any) -> None:
        if module.trainer.fit_loop.total_batch_idx == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    module.before_batch = strike
    run(folder, module=module, data=images(), checkpointing=Checkpointing(every_n_steps=2), **LOOP)


def end(how: str, kind: str, folder: Path, base_folder: Path) -> int:
    """End a run in one of these ways and return the step that its last checkpoint should hold."""
    module, data = stage(kind, base_folder), images()
    if how == "SIGKILL":
        process = process_context().Process(target=killed, args=(folder, base_folder, kind))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
        return 2
    if how == "max_steps":
        run(folder, module=module, data=data, **(LOOP | {"max_steps": 2}))
        return 2

    def strike(module: Any) -> None:
        if module.trainer.fit_loop.total_batch_idx == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    if how == "SIGTERM":
        module.before_batch = strike
    else:
        data.broken = 11  # in batch 5, the last of the second step
    with pytest.raises(SIGTERMException if how == "SIGTERM" else OSError):
        run(folder, module=module, data=data, **LOOP)
    return 1


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        *(("SIGTERM", kind) for kind in STAGES),
        ("max_steps", "alignment"),
        ("unreadable image", "joint"),
        ("SIGKILL", "decoder"),
    ],
)
def test_a_stopped_run_resumes_as_if_it_never_stopped(
    how: str, kind: str, wholes: dict[str, dict[str, Any]], base_folder: Path, tmp_path: Path
) -> None:
    step = end(how, kind, tmp_path, base_folder)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    resumed = run(tmp_path, last, module=stage(kind, base_folder), data=images(), **LOOP)
    assert 0 < len(resumed["keys"]) < len(wholes[kind]["keys"]) == 2 * 12  # 4 steps of 3 batches of 2
    same_end(wholes[kind], resumed)


def test_a_full_disk_leaves_the_last_checkpoint_of_a_stage(
    wholes: dict[str, dict[str, Any]], base_folder: Path, tmp_path: Path
) -> None:
    module, before = stage("alignment", base_folder), resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_space(module: Any) -> None:
        if module.global_step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    module.before_batch = no_space
    try:
        with pytest.raises(UserError, match=r"step-000002\.ckpt was not written \(File too large") as caught:
            run(tmp_path, module=module, data=images(), checkpointing=Checkpointing(every_n_steps=1), **LOOP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step-000001.ckpt"]
    resumed = run(tmp_path, folder / "last.ckpt", module=stage("alignment", base_folder), data=images(), **LOOP)
    same_end(wholes["alignment"], resumed)


def test_a_stage_that_becomes_nan_stops_and_names_the_images(base_folder: Path, tmp_path: Path) -> None:
    module = stage("decoder", base_folder)
    before = {name: value.detach().clone() for name, value in module.trained_parameters()}

    def poison(module: Any) -> None:
        with torch.no_grad():  # frozen, so that the trained weights can stay unchanged
            module.model.lq_encoder.conv_in.weight.fill_(float("nan"))

    module.before_batch = poison
    with pytest.raises(UserError, match=r"10 steps in a row .* at step \d+ with images rain/p\d+, rain/p\d+; check"):
        run(tmp_path, module=module, data=images(), max_steps=20)
    assert len(module.keys) == 2 * 10  # 10 steps of a batch of 2
    assert all(torch.equal(value, before[name]) for name, value in module.trained_parameters())
