"""The page of ``unildiff serve``, in Gradio: uploads, settings, before and after, downloads.

Restoring a file here gives the bytes that ``unildiff restore`` writes with the same settings.
"""

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unildiff.data.shipped_photographs import load as load_photograph
from unildiff.data.shipped_photographs import photographs
from unildiff.data.walk import shown
from unildiff.degradations.cdd11 import CleanImage, degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.restoring.jobs import Job, result_names
from unildiff.restoring.load import load, recipe, sampling_of
from unildiff.restoring.options import RestoreOptions
from unildiff.restoring.run import Restorer, load_job
from unildiff.utils.errors import UserError
from unildiff.utils.files import write_whole

_SAME = "same as the photograph"
_PREVIEW = 1600  # pixels of the longer side of the images that the slider shows
_HEADER = """# UniLDiff
Drop photographs of any size and kind. Results keep format, size and metadata. Everything stays on this machine.
The result is a guess: check faces, text and anything that has to be true."""


SettingsFor = Callable[[RestoreOptions, Sequence[tuple[int, int]]], tuple[RestoreOptions, object]]


class Page:
    """What the page does with a loaded model.

    Args:
        options: settings that the page does not offer.
        folder: temporary folder for the results.
        settings_for: ``planning.restoring.MemoryPlanner.settings_for`` if memory is limited.
    """

    def __init__(self, options: RestoreOptions, folder: Path, settings_for: SettingsFor | None = None) -> None:
        self._settings_for = settings_for
        if settings_for is not None:  # type and offload hold for all images, tiles for one
            chosen, _ = settings_for(options, [(512, 512)])
            options = replace(options, dtype=chosen.dtype, offload=chosen.offload)
        self._restorer = load(recipe(options, lambda path: ""))
        self._folder = folder
        self._lock = threading.Lock()

    def restore(
        self, files: list[str] | None, caption: str, *settings: Any, progress: Any
    ) -> Iterator[tuple[Any, list[str], str]]:
        """Yield (before and after, finished files, messages) as images are done; a bad file becomes a message."""
        done: list[str] = []
        messages: list[str] = []
        pair: Any = None
        if not files:
            yield None, [], "Choose one or several photographs first."
            return
        try:
            options = self._options(*settings)
            restorer = self._with(options, caption)
        except (UserError, ValueError) as error:
            yield None, [], f"Not started: {_for_page(str(error))}"
            return
        place = Path(tempfile.mkdtemp(dir=self._folder))
        names = result_names([Path(file).name for file in files], options.format)
        for number, (file, name) in enumerate(zip(files, names, strict=True)):
            progress(number / len(files), desc=f"{Path(file).name} ({number + 1} of {len(files)})")
            loaded = load_job(Job(Path(file), place / name, Path(file).name))
            if loaded.image is None:
                messages.append(f"{Path(file).name}: {loaded.error.replace(str(Path(file).parent) + os.sep, '')}")
                yield pair, done, _text(done, messages)
                continue
            try:
                with self._lock:  # one model: users take turns, image by image
                    if self._settings_for is not None:
                        height, width = loaded.image.rgb.shape[:2]
                        restorer = self._with(self._settings_for(options, [(height, width)])[0], caption)
                    advance = partial(_advance, progress, number, len(files), names[number])
                    result = restorer.restore([loaded], advance)[0]
                written, warnings = restorer.encode(loaded, result)
                for path, data in written.items():
                    write_whole(path, data)
            except UserError as error:
                messages.append(f"{Path(file).name}: {_for_page(str(error))}")
            else:
                done += map(str, written)
                messages += [f"{Path(file).name}: {_for_page(line)}" for line in warnings]
                after = np.rint(result.levels).clip(0, 255).astype(np.uint8)
                pair = (_preview(loaded.image.rgb8), _preview(after))
            yield pair, done, _text(done, messages)

    def _options(
        self, seed: float, steps: float, guidance: float, tile: float, colour: Any, uncertainty: float, format: Any
    ) -> RestoreOptions:
        """Return the settings of one request, checked."""
        return replace(
            self._restorer.options,
            seed=int(seed),
            num_inference_steps=int(steps),
            guidance_scale=float(guidance),
            tile_size=int(tile) or None,
            colour=colour,
            uncertainty=int(uncertainty),
            format=None if format == _SAME else format,
        )

    def _with(self, options: RestoreOptions, caption: str) -> Restorer:
        """Return the loaded model with these options."""
        made = replace(self._restorer.recipe, options=options, caption_of=lambda path: caption)
        return replace(self._restorer, recipe=made, sampling=sampling_of(options, self._restorer.model))


def launch(
    options: RestoreOptions, host: str, port: int, max_megabytes: int, max_pixels: int, settings_for: SettingsFor | None
) -> None:
    """Serve the page until interrupted."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="unildiff-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "uploads"))
        results = Path(folder, "results")
        results.mkdir()
        page = build(Page(options, results, settings_for), max_megabytes)
        os.environ["UNILDIFF_MAX_PIXELS"] = str(max_pixels)  # the page's own examples may be larger
        page.queue(max_size=64, default_concurrency_limit=2)
        page.launch(
            prevent_thread_lock=True,
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=f"{max_megabytes}mb",
            allowed_paths=[shown(results)],
            show_error=True,
            quiet=True,
            **_look(),
        )
        print(f"open http://{host}:{port} in a browser; Ctrl+C stops the server", flush=True)
        page.block_thread()


def _advance(progress: Any, number: int, count: int, name: str, share: float) -> None:
    """Show that a share (0 to 1) of image ``number`` of ``count`` is done."""
    progress((number + share) / count, desc=name)


def build(page: Page, max_megabytes: int) -> Any:
    """Return the Gradio page."""
    import gradio as gr

    def run(*values: Any, progress: Any = gr.Progress()) -> Iterator[tuple[Any, list[str], str]]:  # noqa: B008
        yield from page.restore(*values, progress=progress)

    with gr.Blocks(title="UniLDiff", analytics_enabled=False) as blocks:
        gr.Markdown(_HEADER)
        with gr.Row():
            with gr.Column(min_width=280):
                label = f"Photographs, up to {max_megabytes} MB each"
                files = gr.File(label=label, file_count="multiple", elem_id="photographs")
                caption = gr.Textbox(label="What they show (optional)", placeholder="a street with houses and cars")
                with gr.Row():
                    start = gr.Button("Restore", variant="primary", elem_id="restore")
                    stop = gr.Button("Cancel", elem_id="cancel")
                with gr.Accordion("Settings", open=False):
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                    steps = gr.Slider(1, 100, 20, step=1, label="Steps")
                    guidance = gr.Slider(0, 15, 5, step=0.5, label="Guidance (strength of the caption)")
                    tile = gr.Slider(0, 2048, 0, step=128, label="Tile size in pixels (0: automatic)")
                    colour = gr.Radio(["none", "input", "auto"], value="none", label="Take colours from the photograph")
                    uncertainty = gr.Slider(0, 8, 0, step=1, label="Further seeds to measure uncertainty")
                    choices = [_SAME, "jpg", "png", "tif", "webp", "avif"]
                    format = gr.Dropdown(choices, value=choices[0], label="Format")
            with gr.Column(min_width=280):
                slider = gr.ImageSlider(label="Before and after", type="numpy", elem_id="slider", interactive=False)
                downloads = gr.File(label="Results", file_count="multiple", interactive=False, elem_id="results")
                messages = gr.Markdown(elem_id="messages")
        values = [files, caption, seed, steps, guidance, tile, colour, uncertainty, format]
        running = start.click(run, values, [slider, downloads, messages])
        stop.click(lambda: "Cancelled.", None, messages, cancels=[running])
        with gr.Accordion("What the model removes", open=False):
            gr.Gallery(
                _examples(), columns=4, height="auto", show_label=False, interactive=False, elem_id="examples"
            )  # a photograph under CDD-11's degradations
    return blocks


def _look() -> dict[str, Any]:
    """Return the theme, with fonts of the system only (Gradio's own are fetched from the network), and no footer."""
    import gradio as gr

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    extras: dict[str, Any] = {"footer_links": [], "run_history": False}  # the history would keep results elsewhere
    extras["css"] = (
        "@media (max-width: 640px) { #examples .grid-container { grid-template-columns: 1fr 1fr !important; } }"
    )
    known = signature(gr.Blocks.launch).parameters
    return {"theme": theme} | {name: value for name, value in extras.items() if name in known}


def _examples() -> list[tuple[np.ndarray, str]]:
    """Return a shipped photograph under every degradation, with its name."""
    image, depth = load_photograph(photographs("val")[0], 360)
    clean = CleanImage(image, depth)
    return [(degrade(clean, name, 0).image, name.replace("_", " + ")) for name in DEGRADATIONS]


def _preview(image: np.ndarray) -> np.ndarray:
    shown_image = Image.fromarray(image)
    shown_image.thumbnail((_PREVIEW, _PREVIEW))
    return np.asarray(shown_image)


def _for_page(line: str) -> str:
    """Return a message whose advice fits the page instead of the command line."""
    return re.sub(r"--colour (\w+)", r"'\1' under Settings, Take colours from the photograph", line)


def _text(done: list[str], messages: list[str]) -> str:
    restored = [name for name in done if not name.endswith(".uncertainty.png")]
    lines = [f"{len(restored)} restored.", *(f"- {message}" for message in messages)]
    return "\n".join(lines)
