"""Raindrops on the lens alone."""

from collections.abc import Sequence
from typing import Any, ClassVar

from unildiff.data.catalogue import RAINDROP, RAINDROP_B
from unildiff.data.catalogue_datamodule import CatalogueDataModule
from unildiff.data.layouts import PictureSet
from unildiff.data.pair import Split


class RaindropDataModule(CatalogueDataModule):
    """RainDrop: 861 pairs to train on, 58 in test a and 249 in test b, as reported."""

    dataset: ClassVar[str] = "raindrop"

    def __init__(self, test_b: bool = False, **kwargs: Any) -> None:
        """Choose the test pictures.

        Args:
            test_b: test on test b, too; its pictures are averaged apart, as "raindrop_b".
            kwargs: see :class:`CatalogueDataModule`.
        """
        super().__init__(**kwargs)
        self.test_b = test_b

    def pictures(self, split: Split) -> Sequence[PictureSet]:
        """See the base class."""
        return [RAINDROP, RAINDROP_B] if split == "test" and self.test_b else [RAINDROP]
