"""`unildiff export`: write a checkpoint as a folder for `restore` and diffusers, with a model card."""

from pathlib import Path
from typing import Literal

from unildiff.utils.errors import UserError
from unildiff.utils.files import output_file
from unildiff.weights.source import check_source


def export(
    ckpt: str,
    *,
    out: Path | None = None,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    init_from: str | None = None,
    onnx: Path | None = None,
    onnx_steps: int = 2,
) -> None:
    """Write a checkpoint, with the base that it was trained on, as a diffusers-format folder and a model card.

    The averaged weights (EMA) are taken if the checkpoint has them. The folder serves `unildiff restore --model`,
    `--model.init_from` of a fit or test, and `UniLDiffPipeline.from_pretrained`.

    Args:
        ckpt: Checkpoint of a stage, or a folder to write again (tiny, or one exported before).
        out: Folder to write.
        dtype: Type of the weights on disk.
        init_from: Checkpoint of the previous stage, if it was moved.
        onnx: ONNX file to write, with or without a folder; for models of the tiny size, needs the extra ``unildiff[onnx]``.
        onnx_steps: sampling steps in the ONNX graph.

    Raises:
        UserError: A file is missing or does not fit, or the folder holds something else.
    """
    if out is None and onnx is None:
        raise UserError("export: nothing to write; give --out DIR or --onnx FILE")
    if onnx_steps < 1:
        raise UserError(f"onnx_steps is {onnx_steps}; it must be at least 1")
    if out is not None:
        _refuse_foreign(out)
    check_source(ckpt)
    if onnx is not None:
        output_file(onnx)
    if init_from is not None and not init_from.startswith("faithdiff:"):
        check_source(init_from)

    import torch

    from unildiff.weights.load import load_restorer, model_from_checkpoint
    from unildiff.weights.model_card import card_of_checkpoint, card_of_folder
    from unildiff.weights.pipeline import UniLDiffPipeline

    weights = getattr(torch, dtype)
    if Path(ckpt).is_file():
        model, checkpoint = model_from_checkpoint(Path(ckpt), weights, init_from)
        card = card_of_checkpoint(checkpoint)
    else:
        model = load_restorer(ckpt, weights)
        card = card_of_folder(ckpt)
    if onnx is not None:
        from unildiff.weights.onnx import export_onnx

        export_onnx(model.float(), onnx, onnx_steps, card)
        print(f"{onnx}: {onnx.stat().st_size / 1e6:,.1f} MB")
    if out is None:
        return
    folder = out
    UniLDiffPipeline.from_model(model, card).save_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:,.1f} MB; try `unildiff restore IMAGES OUT --model {folder}`")


def _refuse_foreign(out: Path) -> None:
    """Raise a UserError when the folder holds something that this command did not write."""
    if out.is_file():
        raise UserError(f"export: {out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "unildiff.json").is_file():
        raise UserError(f"export: {out} is not empty and does not hold an exported model; give another folder")
