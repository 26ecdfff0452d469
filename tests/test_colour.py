"""CIELAB and CIEDE2000 against published values."""

from __future__ import annotations

import pytest
import torch

from theseus_core.colour import ciede2000, colour_difference, colour_error, lab, saturation

# Of the test data that Sharma, Wu and Dalal publish with their paper: two colours in CIELAB, and their difference
PAIRS = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, -1, 2), (50, 0, 0), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (50, 3.1736, 0.5854), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("a", "b", "expected"), PAIRS)
def test_ciede2000_gives_the_published_values(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    one, other = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert ciede2000(one, other).item() == pytest.approx(expected, abs=1e-4)
    assert ciede2000(other, one).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((-1, -1, -1), (0, 0, 0)),
        ((1, -1, -1), (53.24, 80.09, 67.20)),
        ((-1, 1, -1), (87.73, -86.18, 83.18)),
        ((-1, -1, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_the_corners_of_srgb_in_cielab(rgb: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3))[0].tolist() == pytest.approx(expected, abs=0.02)


def test_a_colour_cast_counts_and_its_gradient_is_finite_everywhere() -> None:
    video = torch.stack([torch.full((3, 2, 4, 4), -1.0), torch.zeros(3, 2, 4, 4)])
    cast = video.clone()
    cast[1, 0] += 0.5
    cast.requires_grad_()
    error = colour_error(cast, video)
    error.backward()  # type: ignore[no-untyped-call]
    assert cast.grad is not None and cast.grad.isfinite().all() and (cast.grad[1, 0] > 0).all()
    assert colour_error(video, video).item() < 2e-3 < error.item()
    assert colour_difference(cast.detach(), video).tolist() == pytest.approx([0, 19.2], abs=2)
    assert saturation(video).tolist() == pytest.approx([0, 0], abs=0.1) and saturation(cast.detach())[1] > 20
