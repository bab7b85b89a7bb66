"""Where the files that travel with the package lie, in a checkout and in an installed copy."""

from pathlib import Path

from unildiff.errors import UserError

PACKAGE = Path(__file__).resolve().parent


def weights_path(name: str) -> Path:
    """Return the folder of weights that ship with the package, e.g. ``tiny``.

    Raises:
        UserError: if no weights of that name ship.
    """
    folder = PACKAGE / "weights" / name
    if not folder.is_dir():
        raise UserError(f"weights: none named {name} ship with this package (looked in {PACKAGE / 'weights'})")
    return folder


def config_path(name: str) -> Path:
    """Return a config by its name in the checkout, e.g. ``configs/joint.yaml``: the working folder first, then ours.

    Raises:
        UserError: if it is in neither.
    """
    relative = Path(name)
    candidates = [relative, PACKAGE / relative, PACKAGE.parent / relative]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise UserError(f"config: no file {name} in {Path.cwd()} nor among the package's configs")
