"""Content captions for a folder of images, by any image-to-text model of transformers.

Captions go to ``captions.jsonl`` in the folder, one line per image as soon as it is described: ``file`` (relative), ``caption``,
``model``, ``date`` and ``source``, whether the ground truth or the degraded image was described (the paper does not tell; the
authors' scripts describe the degraded one).
"""

import contextlib
import datetime
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from unildiff.data.captions import FILE_NAME, entries, whole_length
from unildiff.data.catalogue import DATASETS, image_sets
from unildiff.data.images import list_images, read_rgb
from unildiff.data.layouts import is_there, read_pairs, recognise
from unildiff.data.pair import Split
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder, output_file, some, write_failure
from unildiff.utils.locks import exclusive
from unildiff.utils.parallel import progress

Source = Literal["clean", "degraded"]
Captioner = Callable[[np.ndarray], str]
# For models that need a question: it names no degradation and does not ask for one.
PROMPT = "Describe the scene and the objects in this image in one sentence."
_LEAKS = re.compile(
    r"\b(rain(?:y|ing|fall|drops?|s)?|drizzl\w*|snow(?:y|ing|fall|flakes?|s)?|haz(?:e|y|iness)|fog(?:gy)?|mist(?:y)?|smog\w*|"
    r"blur(?:s|ry|red|ring)?|nois(?:e|y)|grain(?:y|iness)|dark(?:ness|ened)?|dim(?:ly)?|low[- ]light|under-?exposed|"
    r"degraded|corrupted|distorted|low[- ]quality|low[- ]resolution)\b",
    re.IGNORECASE,
)


def leaks(caption: str) -> list[str]:
    """Return the words of a caption that name a degradation, or may name one: "dark" may also be the colour of a coat."""
    return sorted({found.lower() for found in _LEAKS.findall(caption)})


def caption_folder(
    root: Path, model: str, source: Source, name: str | None = None, length: int = 40
) -> tuple[int, int]:
    """Caption the images of a folder that have no caption yet; return how many were captioned now, and how many had been.

    The arguments are those of ``unildiff data caption``; ``length`` is the most tokens of a caption.

    Raises:
        UserError: nothing to caption, a model that cannot be loaded, images that cannot be read (named at the end, when
            all others are done), or no permission or space to write.
    """
    files = image_files(root, source, name)
    target = root / FILE_NAME
    if target.exists() and not _missing(files, root, target):
        return 0, len(files)
    output_file(target)  # before a model is loaded for nothing
    with exclusive(root) or contextlib.nullcontext():  # two runs would caption everything twice
        missing = _missing(files, root, target)
        if not missing:
            return 0, len(files)
        captioner = load_captioner(model, length)
        broken: list[str] = []
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        try:
            _end_last_line(target)
            with open(target, "a", encoding="utf-8") as lines:
                for file in progress(missing, len(missing), "Captioning"):
                    try:
                        image = read_rgb(file)
                    except UserError as error:
                        broken.append(str(error))
                        continue
                    entry = {"file": file.relative_to(root).as_posix(), "caption": captioner(image), "model": model}
                    lines.write(_line(entry | {"date": date, "source": source}))
                    lines.flush()
        except OSError as error:
            raise write_failure(target, error) from None
    if broken:
        raise UserError(f"{len(broken)} of {len(missing):,} images cannot be captioned: {some(broken, 3)}")
    return len(missing), len(files) - len(missing)


def _missing(files: Sequence[Path], root: Path, target: Path) -> list[Path]:
    """Return the images that have no complete line in the captions file yet."""
    known = {entry["file"] for entry in entries(target, interrupted=True)} if target.exists() else set()
    return [file for file in files if file.relative_to(root).as_posix() not in known]


def _line(entry: dict[str, str]) -> str:
    line = json.dumps(entry, ensure_ascii=False)
    plain = line.encode("utf-8", "replace").decode() == line  # a file name that is not UTF-8 is written as escapes
    return (line if plain else json.dumps(entry)) + "\n"


def image_files(root: Path, source: Source, name: str | None = None) -> list[Path]:
    """Return the ground truth or the degraded images of a dataset, or all images of a plain folder.

    Raises:
        UserError: no such folder, or no such images in it.
    """
    input_folder(root, "the images")
    sets = image_sets(name) if name is not None else [s for each in DATASETS for s in image_sets(each)]
    there = [(images, split) for images in sets for split in get_args(Split) if is_there(root, images, split)]
    if not there:
        if name is not None:
            raise UserError(f"nothing of {name} in {root}; see `unildiff data layout {name}`")
        files = list_images(root, recursive=True)
    else:
        pairs = [
            pair for images, split in there for pair in read_pairs(root, images, recognise(root, images, split))[0]
        ]
        files = [path for pair in pairs if (path := pair.gt if source == "clean" else pair.lq) is not None]
    if not files:
        raise UserError(f"no {source} images in {root}; give the folder of a dataset or of images")
    return sorted(dict.fromkeys(files))


def load_captioner(model: str, length: int) -> Captioner:
    """Return a function from (H, W, 3) uint8 RGB to a caption, greedy and so repeatable.

    Models with a chat template get ``PROMPT``; others describe the image without one.

    Raises:
        UserError: the model cannot be found or loaded, or is of another kind.
    """
    local = _only_local(model)  # before the seconds that transformers takes to import

    import torch
    import transformers

    library: Any = transformers  # its from_pretrained methods have no types
    library.utils.logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network = library.AutoModelForImageTextToText.from_pretrained(model, dtype="auto", local_files_only=local)
        network = network.to(device).eval()
        processor: Any = library.AutoProcessor.from_pretrained(model, local_files_only=local)
        if hasattr(processor, "image_processor"):
            images, tokenizer = processor, processor.tokenizer
        else:  # an encoder and a decoder that were put together keep their processors apart
            images = library.AutoImageProcessor.from_pretrained(model, local_files_only=local)
            tokenizer = library.AutoTokenizer.from_pretrained(model, local_files_only=local)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot load captioning model {model}: {reason}; give the id or the folder of an image-to-text model"
        ) from None
    has_prompt = getattr(processor, "chat_template", None) is not None
    question = ""
    if has_prompt:
        content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
        question = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    @torch.inference_mode()
    def caption(image: np.ndarray) -> str:
        given = {"text": question} if has_prompt else {}
        inputs = images(images=image, return_tensors="pt", **given).to(device, network.dtype)
        tokens = network.generate(**inputs, max_new_tokens=length, do_sample=False, num_beams=1)
        answer = tokens[0, inputs["input_ids"].shape[1] :] if has_prompt else tokens[0]
        return " ".join(str(tokenizer.decode(answer, skip_special_tokens=True)).split())

    return caption


def _only_local(model: str) -> bool:
    """Return whether a model is read from this machine alone; one short request finds out, transformers retries for a minute.

    Raises:
        UserError: the model is not on this machine, and the hub cannot be reached or does not have it.
    """
    if Path(model).is_dir():
        return True
    import huggingface_hub

    try:
        huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(model, timeout=10)
        return False
    except Exception as error:  # noqa: BLE001  the hub's own errors and those of its HTTP client have no base class in common
        if isinstance(huggingface_hub.try_to_load_from_cache(model, "config.json"), str):
            return True
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"captioning model {model} is not a folder, not in the cache of the Hugging Face hub, and cannot be downloaded "
            f"({reason}); give the id or the folder of an image-to-text model"
        ) from None


def _end_last_line(path: Path) -> None:
    """Cut off a last line that is incomplete; end one that lacks its newline alone, as editors leave it."""
    data = path.read_bytes() if path.is_file() else b""
    if (length := whole_length(data)) < len(data):
        os.truncate(path, length)
    elif data and not data.endswith(b"\n"):
        path.write_bytes(data + b"\n")
