"""Names of what is written."""

from itertools import permutations

from unildiff.utils.files import png_names


def test_pngs_of_pictures_never_share_a_name() -> None:
    names = ["a.jpg", "b.tif", "deep/a.jpg", "a.png", "c.d.jpg"]
    assert png_names(names) == ["a.jpg.png", "b.png", "deep/a.png", "a.png.png", "c.d.png"]
    assert png_names(["a.png", "a.png.png"]) == ["a.png", "a.png.png"]
    for order in permutations(["a.jpg", "a.png", "a.png.png", "a.png.png.jpg"]):
        assert len(set(png_names(order))) == 4  # a.png.png is also what a.png becomes beside a.jpg
