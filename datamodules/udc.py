"""Under-display cameras: T-OLED and P-OLED, zero-shot test and optional training."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from unildiff.data.catalogue import SETS
from unildiff.data.catalogue_datamodule import CatalogueDataModule
from unildiff.data.images import read_rgb
from unildiff.data.layouts import ImageSet
from unildiff.data.pair import PairSource, Split, refuse_unknown
from unildiff.data.raw import Bayer, demosaic, mosaic, raw_to_rgb, read_raw
from unildiff.utils.errors import UserError
from unildiff.utils.validation import Range, check_arguments

_WHITE = 65535
_DISPLAYS = {name: SETS[name] for name in ("toled", "poled")}


class UDCDataModule(CatalogueDataModule):
    """300 DIV2K scenes behind each display, 1024x2048: 240 to train on, 30 for validation, 30 to test on, as reported.

    Read as ``{Poled,Toled}_{train,val,test}/{LQ,HQ}`` or as the UniLDiff authors keep it (``TOLED_test`` + ``TOLED_GT``,
    ``POLED/poled_images`` + ``POLED/test_GT``). 8-bit RGB by default; the challenge's RGB files are linear, not
    gamma-encoded, so they look dark and scores on them are not those of photographs. With ``format: raw`` the files are 16-bit mosaics
    (PNG, TIFF, npy or mat), for which the Bayer pattern must be given: no file states it, and a wrong one swaps
    colours. The public test split came without ground truth: test on the validation split with ``test_split: val``, and
    restore the test images with ``--data folder``.
    """

    dataset: ClassVar[str] = "udc"

    def __init__(
        self,
        displays: list[str] | None = None,
        format: Literal["rgb", "raw"] = "rgb",
        bayer: Bayer | None = None,
        white_level: Annotated[int, Range(1, 65_535)] = _WHITE,
        through_raw: bool = False,
        test_split: Literal["test", "val"] = "test",
        **kwargs: Any,
    ) -> None:
        """Choose displays and file format.

        Args:
            displays: "toled", "poled" or both (default).
            format: what the files hold.
            bayer: RGGB, BGGR, GRBG or GBRG; required for ``format: raw`` and ``through_raw``, and for these alone.
            white_level: of ``format: raw``, the value that becomes 255.
            through_raw: of ``format: rgb``, take images through an 8-bit mosaic and back (the supplement's step from
                linear RGB to RAW).
            test_split: which images ``test`` uses; "val" where the test images have no ground truth.
            kwargs: see :class:`CatalogueDataModule`.
        """
        check_arguments(UDCDataModule, locals())
        super().__init__(**kwargs)
        self.test_split: Split = test_split
        self.displays = list(_DISPLAYS) if displays is None else displays
        refuse_unknown("displays", self.displays, _DISPLAYS)
        if not self.displays or len(set(self.displays)) < len(self.displays):
            raise UserError(f"displays: {self.displays}; give toled, poled or both, each once")
        raw = format == "raw"
        if (raw or through_raw) and bayer is None:
            raise UserError("udc: RAW needs --data.bayer RGGB, BGGR, GRBG or GBRG; it is never guessed")
        if raw and through_raw:
            raise UserError("udc: through_raw is for RGB files; leave it out, or give --data.format rgb")
        if bayer is not None and not (raw or through_raw):
            raise UserError(f"udc: bayer {bayer} is for RAW; give --data.format raw or --data.through_raw true too")
        if white_level != _WHITE and not raw:
            raise UserError(f"udc: white_level {white_level} is for RAW files; give --data.format raw too")
        self.recipe = f"{format} {bayer} {white_level} {through_raw}"
        if bayer is not None and raw:
            self.reader = partial(_developed, pattern=bayer, white=white_level)
        elif bayer is not None and through_raw:
            self.reader = partial(_through_raw, pattern=bayer)

    def images(self, split: Split) -> Sequence[ImageSet]:
        """Return the chosen displays."""
        return [_DISPLAYS[name] for name in self.displays]

    def find(self, split: Split) -> PairSource:
        """See the base class."""
        return super().find(self.test_split if split == "test" else split)

    def contents(self) -> list[str]:
        """See the base class."""
        return [*super().contents(), *([] if self.reader is read_rgb else [self.recipe])]


def _developed(path: Path, pattern: Bayer, white: int) -> np.ndarray:
    return raw_to_rgb(read_raw(path), pattern, white)


def _through_raw(path: Path, pattern: Bayer) -> np.ndarray:
    return demosaic(mosaic(read_rgb(path), pattern), pattern)
