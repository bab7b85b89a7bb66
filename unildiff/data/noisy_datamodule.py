"""The datamodule of datasets with noise among their tasks: noise is made as images are read, never stored."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from unildiff.data.catalogue_datamodule import CatalogueDataModule
from unildiff.data.datasets import Degrader
from unildiff.data.gaussian_noise import GaussianNoise, Recipe, Sigma, check_levels, sigma_of
from unildiff.data.layouts import ImageSet
from unildiff.data.pair import Pair, PairSource, Split, refuse_unknown
from unildiff.data.sources import View
from unildiff.utils.errors import UserError
from unildiff.utils.validation import check_arguments


class NoisyDataModule(CatalogueDataModule):
    """Pairs, some of which are clean images that get their noise here; see :class:`CatalogueDataModule`."""

    test_levels: ClassVar[tuple[int, ...]] = (15, 25, 50)

    def __init__(
        self,
        tasks: list[str] | None = None,
        sigmas: list[Sigma] | None = None,
        test_sigmas: list[Sigma] | None = None,
        test_noise: Recipe = "keyed",
        **kwargs: Any,
    ) -> None:
        """Choose tasks and noise.

        Args:
            tasks: read these tasks only; by default all of the dataset.
            sigmas: training noise in units of 1/255, each drawn equally often; by default 15, 25 and 50.
            test_sigmas: test noise; by default the levels that the benchmark reports.
            test_noise: "keyed" makes it from (test_seed, file name, sigma) alone; "peers" as PromptIR, AdaIR, DFPIR and
                MoCE-IR do, for comparison with their numbers.
            kwargs: see :class:`CatalogueDataModule`.
        """
        check_arguments(NoisyDataModule, locals())
        super().__init__(**kwargs)
        known = self.known
        self.tasks = [images.task for images in known.sets] if tasks is None else tasks
        refuse_unknown("tasks", self.tasks, [images.task for images in known.sets])
        self.sigmas = [15, 25, 50] if sigmas is None else sigmas
        self.test_sigmas = list(self.test_levels) if test_sigmas is None else test_sigmas
        for name, given in (("sigmas", self.sigmas), ("test_sigmas", self.test_sigmas)):
            check_levels(name, given)
        self.test_noise: Recipe = test_noise
        for images in (*known.also, *known.optional):
            if images.name in (self.also_test or []) and images.task not in self.tasks:
                raise UserError(f"also_test: {images.name} is of the task {images.task}; add it to tasks")

    def images(self, split: Split) -> Sequence[ImageSet]:
        """See the base class."""
        return [images for images in super().images(split) if images.task in self.tasks]

    def choose(self, source: PairSource, split: Split) -> PairSource:
        """Return the wanted noise levels; in tests clean images come once for each of them."""
        levels = self.sigmas if split == "train" else self.test_sigmas
        picks: list[tuple[int, Pair]] = []
        for index, pair in enumerate(source.pairs):
            if pair.lq is not None:  # noise made beforehand has its level in its name
                wanted = "noise_" not in pair.degradation or sigma_of(pair.degradation) in levels
                picks += [(index, pair)] if wanted else []
            elif split == "train":
                picks.append((index, pair))
            else:
                picks += [(index, replace(pair, degradation=f"{pair.degradation}_{sigma}")) for sigma in levels]
        return View(source, picks)

    def degrader(self, split: Split, source: PairSource) -> Degrader:
        """See the base class."""
        noise = GaussianNoise(self.sigmas, self.test_noise)
        if split != "train" and self.test_noise == "peers":
            clean = [index for index, pair in enumerate(source.pairs) if pair.lq is None]
            # sigma by sigma, and the files of each sorted by name: one run of the peers' test over these levels
            clean.sort(
                key=lambda i: (self.test_sigmas.index(sigma_of(source.pairs[i].degradation)), source.pairs[i].gt)
            )
            pairs = [source.pairs[index] for index in clean]
            noise.draw_through(pairs, lambda number: source.read(clean[number], "gt").shape)
        return noise

    def contents(self) -> list[str]:
        """See the base class."""
        return [*super().contents(), f"tasks {self.tasks}, noise {self.sigmas} {self.test_sigmas} {self.test_noise}"]
