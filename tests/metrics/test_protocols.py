import dataclasses
import math

import pytest

from unildiff.metrics.protocols import PROTOCOLS, chosen_protocol, get_protocol
from unildiff.utils.errors import UserError

NAMES = [
    "unildiff",
    "promptir",
    "moceir",
    "moceir-cdd11",
    "onerestore",
    "daclip",
    "diffuir",
    "pyiqa-y",
    "foundir",
    "basicsr-y",
    "instructir",
]


def test_the_protocols_are_frozen_and_name_their_source():
    assert list(PROTOCOLS) == NAMES
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert len(protocol.source) > 20
        with pytest.raises(dataclasses.FrozenInstanceError):
            protocol.border = 1


def test_choices_that_published_code_makes():
    # One line per protocol: colour, crop, border, 8 bits, window, sample covariance.
    rows = {
        "unildiff": ("rgb", 16, 0, True, "gaussian11", False),
        "promptir": ("rgb", 16, 0, False, "uniform7", True),
        "moceir": ("rgb", 16, 0, False, "gaussian11", True),
        "moceir-cdd11": ("rgb", 1, 0, False, "gaussian11", True),
        "instructir": ("rgb", 16, 0, False, "gaussian11", False),
        "onerestore": ("rgb", 1, 0, True, "uniform7", True),
        "daclip": ("rgb", 1, 4, True, "gaussian11", False),
        "diffuir": ("bt601", 1, 0, True, "gaussian11", False),
        "pyiqa-y": ("yiq", 1, 0, True, "gaussian11", False),
        "foundir": ("rgb", 1, 0, True, "gaussian11", False),
        "basicsr-y": ("bt601", 1, 0, True, "gaussian11", False),
    }
    for name, row in rows.items():
        p = PROTOCOLS[name]
        assert (p.colour, p.crop_multiple, p.border, p.quantise, p.window, p.sample_covariance) == row, name


def test_identical_images_are_capped_where_the_source_adds_an_epsilon():
    # pyiqa: 10 log10(1 / 1e-8) = 80 dB; the others divide by zero.
    for name, protocol in PROTOCOLS.items():
        capped = name in ("unildiff", "pyiqa-y", "foundir")
        assert protocol.identical == ("cap" if capped else "exclude")
        assert protocol.identical_psnr == (pytest.approx(80) if capped else math.inf)


def test_str_states_every_choice_in_one_line():
    assert str(PROTOCOLS["unildiff"]) == (
        "unildiff: RGB, 8-bit, centre crop to 16, SSIM Gaussian 11x11, population covariance; "
        "identical images capped at 80 dB"
    )
    assert "Y (BT.601, 16-235)" in str(PROTOCOLS["diffuir"]) and "edges replicated" in str(PROTOCOLS["diffuir"])
    assert "RGB (SSIM: Y (YIQ))" in str(PROTOCOLS["foundir"])
    assert "full size, border 4" in str(PROTOCOLS["daclip"])
    assert "sample covariance; identical images left out of mean PSNR" in str(PROTOCOLS["onerestore"])


@pytest.mark.parametrize(
    ("typed", "meant"), [("promtir", "promptir"), ("UniLDiff", "unildiff"), ("basicsr", "basicsr-y")]
)
def test_unknown_protocol_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(UserError, match=f"did you mean '{meant}'.*diffuir") as caught:
        get_protocol(typed)
    assert "\n" not in str(caught.value)


def test_unknown_protocol_without_a_near_one_lists_all():
    with pytest.raises(UserError) as caught:
        get_protocol("zzz")
    assert "did you mean" not in str(caught.value) and all(name in str(caught.value) for name in NAMES)


def test_a_protocol_is_handed_back_as_it_is():
    assert get_protocol(PROTOCOLS["moceir"]) is get_protocol("moceir")


def test_instructir_neither_clamps_nor_clips_and_moceir_crops_only_outside_of_cdd11():
    unildiff, instructir = PROTOCOLS["unildiff"], PROTOCOLS["instructir"]
    assert (instructir.clamp, instructir.clip_contrast, instructir.psnr_epsilon) == (False, False, 0.0)
    assert dataclasses.replace(
        instructir, name="", source="", clamp=True, quantise=True, clip_contrast=True, psnr_epsilon=1e-8
    ) == dataclasses.replace(unildiff, name="", source="")
    moceir = PROTOCOLS["moceir"]
    assert dataclasses.replace(moceir, name="", source="", crop_multiple=1) == dataclasses.replace(
        PROTOCOLS["moceir-cdd11"], name="", source=""
    )


@pytest.mark.parametrize(
    ("given", "own", "used"),
    [("moceir", "onerestore", "moceir-cdd11"), ("moceir", "unildiff", "moceir"), (None, "onerestore", "onerestore")],
)
def test_moceir_does_not_crop_on_cdd11(given, own, used):
    assert chosen_protocol(given, own) == used
