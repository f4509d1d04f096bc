from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from atrous.data.resize import Window, nearest_index, resized_image, resized_target

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@st.composite
def windows(draw: st.DrawFn) -> tuple[NDArray[np.uint8], Window]:
    source = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    scale = draw(st.sampled_from(SCALES))
    rows, columns = (max(1, int(side * scale)) for side in source)
    height, width = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    top, left = draw(st.integers(0, rows - height)), draw(st.integers(0, columns - width))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (*source, 3))
    return pixels.astype(np.uint8), Window((rows, columns), top, left, height, width)


def whole_then_cut(image: torch.Tensor, window: Window) -> torch.Tensor:
    whole = F.interpolate(image[None], window.size, mode="bilinear", align_corners=True)[0]
    _, top, left, height, width = window
    return whole[:, top : top + height, left : left + width]


@given(windows())
@settings(max_examples=150, deadline=None)
def test_window_equals_whole_resize_then_cut(case: tuple[NDArray[np.uint8], Window]) -> None:
    image, window = case
    ours = resized_image(image, window)
    # Channels last, as the pictures lie in memory: this is what selects torch's kernel.
    expected = whole_then_cut(torch.from_numpy(image).permute(2, 0, 1), window)
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":  # one pass there: rounded once
        assert (ours.int() - expected.int()).abs().max() <= 1
    else:
        assert torch.equal(ours, expected)


@given(windows())
@settings(max_examples=150, deadline=None)
def test_window_is_within_one_level_of_float_resize(
    case: tuple[NDArray[np.uint8], Window],
) -> None:
    image, window = case
    exact = whole_then_cut(torch.from_numpy(image).permute(2, 0, 1).double(), window)
    assert (resized_image(image, window).double() - exact).abs().max() < 1.05


@pytest.mark.parametrize("scale", SCALES)
def test_nearest_index_is_the_rounded_exact_position(scale: float) -> None:
    for source in (1, 2, 3, 7, 60, 375, 500):
        resized = max(1, int(source * scale))
        step = Fraction(source - 1, resized - 1) if resized > 1 else Fraction(0)
        half = Fraction(1, 2)
        expected = [int(position * step + half) for position in range(resized)]
        assert nearest_index(0, resized, source, resized).tolist() == expected


@given(windows())
@settings(max_examples=100, deadline=None)
def test_target_window_equals_whole_resize_then_cut(
    case: tuple[NDArray[np.uint8], Window],
) -> None:
    image, window = case
    target = image[..., 0]
    size, top, left, height, width = window
    whole = resized_target(target, Window(size, 0, 0, *size))
    expected = whole[top : top + height, left : left + width]
    np.testing.assert_array_equal(resized_target(target, window), expected)


@given(windows())
@settings(max_examples=100, deadline=None)
def test_target_agrees_with_picture_to_the_pixel(
    case: tuple[NDArray[np.uint8], Window],
) -> None:
    image, window = case
    stripes = np.broadcast_to(image[:1, :, 0] > 127, image.shape[:2])
    painted = np.repeat((stripes * 200).astype(np.uint8)[..., None], 3, axis=2)
    picture = resized_image(painted, window)[0].numpy().astype(int)
    target = resized_target(stripes.astype(np.uint8), window)
    decided = abs(picture - 100) > 1  # halfway between two columns both are nearest
    np.testing.assert_array_equal(target[decided], (picture > 100)[decided])


@pytest.mark.parametrize("view", ["flipped", "read-only", "channels reversed"])
def test_any_array_layout_is_accepted(view: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    odd = {"flipped": image[:, ::-1], "channels reversed": image[..., ::-1]}.get(view, image)
    odd.setflags(write=view != "read-only")
    window = Window((30, 45), 3, 4, 20, 30)
    expected = resized_image(odd.copy(), window)
    assert torch.equal(resized_image(odd, window), expected)
