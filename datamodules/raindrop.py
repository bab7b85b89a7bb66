"""Raindrops on the lens alone."""

from typing import Any, ClassVar

from unildiff.data.catalogue_datamodule import CatalogueDataModule


class RaindropDataModule(CatalogueDataModule):
    """RainDrop: 861 pairs to train on, 58 in test a and 249 in test b, as reported."""

    dataset: ClassVar[str] = "raindrop"

    def __init__(self, test_b: bool = False, **kwargs: Any) -> None:
        """Choose the test images.

        Args:
            test_b: test on test b, too, the same as ``also_test: [raindrop_b]``; its images are averaged separately.
            kwargs: see :class:`CatalogueDataModule`.
        """
        super().__init__(**kwargs)
        if test_b:
            self.also_test = ["raindrop_b"]
