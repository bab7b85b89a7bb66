import numpy as np
import pytest

from studies.robustness import WINDOWS, clean_photographs, window


def test_windows_are_in_the_middle_and_never_smaller_than_requested() -> None:
    image = np.arange(7 * 9 * 3).reshape(7, 9, 3)
    np.testing.assert_array_equal(window(image, 3, 5), image[2:5, 2:7])
    with pytest.raises(ValueError, match="no window of 8x5 in an image of 7x9"):
        window(image, 8, 5)
    for which in ("validation", "test"):
        for photograph, _ in clean_photographs(which).values():  # type: ignore[arg-type]
            assert [window(photograph, *size).shape[:2] for size in WINDOWS] == list(WINDOWS)
