"""``unildiff serve``: a local page that restores photographs."""

import socket
from importlib.util import find_spec
from typing import Literal

from unildiff.utils.errors import UserError


def serve(
    model: str = "tiny",
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    memory: str | None = None,
    offload: Literal["none", "model", "group"] | None = None,
    max_megabytes: int = 200,
    max_pixels: int = 268_435_456,
) -> int:
    """Open a page in the browser that restores photographs.

    The page runs on this machine and loads nothing from the network. Uploads and results lie in a temporary folder, which is
    removed when the server stops (Ctrl+C).

    Args:
        model: tiny (comes with the package), a folder made by `unildiff export`, or a checkpoint
        host: address to listen on; 127.0.0.1 can be reached from this machine only
        port: port to listen on
        device: auto, cpu, cuda, cuda:1, mps, ...
        dtype: type of the weights; auto is bfloat16 on GPUs that have it and float32 on CPUs
        memory: memory to keep to, e.g. 8GB: of the GPU, or of this process on a CPU; each image gets the tiles that fit
        offload: keep idle parts of the model on the CPU, or (group) also the U-Net's layers, as for `unildiff restore`
        max_megabytes: largest upload
        max_pixels: largest image that is read, in pixels

    Raises:
        UserError: the address cannot be listened on, Gradio is not installed, or the model cannot be loaded.
    """
    from unildiff.cli.commands.restore import check_model
    from unildiff.restoring.options import RestoreOptions, memory_bytes
    from unildiff.utils.validation import PositiveInt, build

    _check_address(host, port)
    limit = None if memory is None else memory_bytes(memory)
    options = RestoreOptions(model=model, device=device, dtype=dtype, offload=offload, memory=limit)
    check_model(options)
    limits = (build(PositiveInt, max_megabytes, "max_megabytes"), build(PositiveInt, max_pixels, "max_pixels"))
    if find_spec("gradio") is None:
        raise UserError("serve: Gradio is not installed; `pip install 'unildiff[web]'`")
    settings_for = None
    if limit is not None:
        import gradio  # noqa: F401  # the memory that it takes counts

        from unildiff.planning.restoring import MemoryPlanner

        settings_for = MemoryPlanner(options).settings_for
    from unildiff.restoring.page import launch

    launch(options, host, port, *limits, settings_for)
    return 0


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on."""
    if not 0 < port < 65_536:
        raise UserError(f"port is {port}; it must be a whole number between 1 and 65,535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"serve: cannot listen on {host}:{port} ({reason}); give another --host or --port") from None
