"""CDD-11: low light, haze, rain, snow and seven combinations of them; Table 2 of the paper."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from unildiff.data.catalogue_datamodule import CatalogueDataModule
from unildiff.data.layouts import ImageSet
from unildiff.data.pair import Split, refuse_unknown
from unildiff.degradations.names import DEGRADATIONS, DOUBLE, SINGLE, TRIPLE

_GROUPS = {"single": SINGLE, "double": DOUBLE, "triple": TRIPLE, "all": DEGRADATIONS}


class CDD11DataModule(CatalogueDataModule):
    """1,183 scenes to train on and 200 to test on (as reported), each under 11 degradations, 1080x720 PNG.

    Read as OneRestore (``CDD-11_{train,test}``), MoCE-IR (``cdd11/{train,test}``) and the UniLDiff authors
    (``CDD11_test``) keep it: one folder a degradation and ``clear``, equal file names. Each degradation is a task of its
    own for ``weights``. Source: Guo et al., OneRestore, ECCV 2024.
    """

    dataset: ClassVar[str] = "cdd11"

    def __init__(self, root: str = "data/cdd11", degradations: str | list[str] = "all", **kwargs: Any) -> None:
        """Choose the degradations.

        Args:
            root: folder of the dataset.
            degradations: "all", "single", "double", "triple" or names, e.g. ``[low, haze_rain]``; groups may be mixed in.
            kwargs: see :class:`CatalogueDataModule`.
        """
        super().__init__(root, **kwargs)
        chosen = [degradations] if isinstance(degradations, str) else degradations
        self.degradations = list(dict.fromkeys(name for given in chosen for name in _GROUPS.get(given, (given,))))
        refuse_unknown("degradations", chosen, [*_GROUPS, *DEGRADATIONS])

    def images(self, split: Split) -> Sequence[ImageSet]:
        """Return the set without the folders of other degradations."""
        (images,) = self.known.sets
        return [replace(images, folders=tuple(f for f in images.folders if f.degradation in self.degradations))]

    def contents(self) -> list[str]:
        """See the base class."""
        return [*super().contents(), f"degradations {self.degradations}"]
