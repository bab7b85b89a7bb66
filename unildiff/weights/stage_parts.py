"""The parts that each training stage trains, and those that it copies from the stage before.

Stages, planning and the loading of checkpoints all read these two tables. All names are prefixes of parameter names in
``UniLDiff``. Source: UniLDiff, arXiv 2507.23685, supplement, section 2.2 ("Training details").
"""

from collections.abc import Iterable

TRAINED: dict[str, tuple[str, ...]] = {
    "alignment": ("unet.fusion.",),
    "joint": ("lq_encoder.", "unet."),
    "joint_lora": ("lq_encoder.", "unet.fusion."),  # besides the adapters in the U-Net's attention
    "decoder": ("decoder.",),
}
"""The trained parts by stage; everything else is frozen."""

INITIALISED_FROM: dict[str, dict[str, str]] = {
    "alignment": {},
    "joint": {"unet.fusion.": "unet.fusion."},
    "joint_lora": {"unet.fusion.": "unet.fusion."},
    "decoder": {"lq_encoder.": "lq_encoder.", "unet.": "unet."},
}
"""The parts copied from the checkpoint in ``init_from``, by stage: prefix in the checkpoint -> prefix in the model."""


def parts_in(names: Iterable[str]) -> tuple[str, ...] | None:
    """Return the trained parts of the stage that wrote a checkpoint, or None if no restoration stage did.

    Checkpoints of ``joint_lora`` are recognised as those of ``joint``, since adapters belong to the U-Net.

    Args:
        names: parameter names in the checkpoint, adapters already merged or not.
    """
    bare = [name.removeprefix("model.") for name in names]
    for stage in ("decoder", "joint", "alignment"):
        if all(any(name.startswith(part) for name in bare) for part in TRAINED[stage]):
            return TRAINED[stage]
    return None
