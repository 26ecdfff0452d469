"""Sprites: the ground and the things on it are found without learning, followed through the clip, and drawn again at any size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from theseus_core import world
from theseus_core.contracts import Batch
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr
from theseus_core.nn.foreground import axes, fit_ground, follow, foreground, ground, patches
from theseus_core.nn.sprites import PLACE
from theseus_core.registry import build
from theseus_core.tokenizers.sprites import PLACES, SHAPES, SLOPES, Model
from theseus_core.world import Description


def clip(size: int = 64, width: int | None = None, **attributes: str) -> Tensor:
    """A red circle going right on white, or what else is said: (1, 3, 17, H, W)."""
    said = {"shape": "circle", "colour": "red", "motion": "right", "speed": "fast", "background": "white"} | attributes
    return world.render([Description("shapes", said, 5)], 17, size, width or size)


PAIR = {"relation": "above", "other_shape": "square", "other_colour": "blue"}


@pytest.fixture(scope="module")
def sprites() -> Model:
    torch.manual_seed(0)
    model = build("tokenizers", "sprites", "debug")
    assert isinstance(model, Model)
    return model.eval()


def test_the_ground_is_fitted_in_spite_of_what_lies_on_it() -> None:
    torch.manual_seed(0)
    truth = torch.cat([torch.rand(4, 3, 1) - 0.5, 0.3 * torch.rand(4, 3, 2) - 0.15], dim=2)
    picture = ground(truth, 48, 80)
    clean = fit_ground(picture)
    picture[:, :, 10:24, 30:50] = torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(clean, truth, atol=2e-3, rtol=0)
    torch.testing.assert_close(fit_ground(picture), truth, atol=0.02, rtol=0)


def test_connected_patches_come_by_their_size_and_what_is_tiny_does_not_count() -> None:
    mask = torch.zeros(2, 1, 20, 30)
    mask[0, 0, 2:8, 2:4] = 1  # an L of 6 x 2 and 2 x 8 more
    mask[0, 0, 8:10, 2:10] = 1
    mask[0, 0, 1:4, 20:23] = 1
    mask[0, 0, 15, 15] = 1
    for i in range(10):  # a line of corners that touch
        mask[1, 0, i, i] = 1
    found = patches(mask, 3)
    assert found.flatten(2).sum(2).tolist() == [[28, 9, 0], [10, 0, 0]]
    assert found[0, 0, 9, 9] and found[0, 1, 2, 21] and found[1, 0, 5, 5]


def test_patches_agree_with_a_flood_from_each_pixel() -> None:
    torch.manual_seed(2)
    mask = (torch.rand(3, 1, 16, 16) > 0.6).float()
    for grid, found in zip(mask[:, 0].bool(), patches(mask, 2), strict=True):
        seen: set[tuple[int, int]] = set()
        sizes = []
        for start in map(tuple, grid.nonzero().tolist()):
            todo, size = [start], 0
            while todo:
                y, x = todo.pop()
                if (y, x) in seen or not (0 <= y < 16 and 0 <= x < 16) or not grid[y, x]:
                    continue
                seen.add((y, x))
                size += 1
                todo += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            sizes.append(size)
        assert found.flatten(1).sum(1).tolist() == sorted(sizes, reverse=True)[:2]


def test_things_keep_their_places_when_the_larger_one_changes() -> None:
    there = torch.ones(1, 5, 2, dtype=torch.bool)
    still, moving = torch.zeros(5, 3), torch.linspace(1, 2, 5)[:, None].expand(5, 3)
    swapped = [0, 1, 1, 0, 1]
    things = torch.stack([torch.stack([moving[i], still[i]] if s else [still[i], moving[i]]) for i, s in enumerate(swapped)])
    order = follow(things[None], there)
    followed = things[None].gather(2, order[..., None].expand(-1, -1, -1, 3))
    assert torch.equal(followed[0, :, 0], moving) and torch.equal(followed[0, :, 1], still)


def test_a_thing_that_is_always_there_stands_before_one_that_is_not() -> None:
    things = torch.tensor([[0.0, 3.0], [0.0, 4.0], [0.0, 5.0]]).view(1, 3, 2, 1)
    there = torch.tensor([[True, True], [True, False], [True, False]]).view(1, 3, 2)
    assert follow(things, there).tolist() == [[[0, 1]] * 3]


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (48, 96)])
def test_untrained_it_knows_where_things_are_how_large_and_of_what_colour(sprites: Model, height: int, width: int) -> None:
    video = clip(height, width)
    numbers = sprites.encode(video)[0, :, :, 0, 0].T  # (T, Z)
    _, places, _ = sprites._find(video[0].transpose(0, 1))
    y, x, _, *colour, here = places[:, 0].unbind(1)
    assert (here == 1).all() and (places[:, 1] == torch.tensor([0.0] * 6 + [-1])).all()
    assert float((y - y[0]).abs().max()) < 0.02 and (x.diff() > 0).all()  # it goes right, on a level
    torch.testing.assert_close(torch.stack(colour, 1), torch.tensor([0.9, 0.1, 0.1]).mul(2).sub(1).expand(17, 3), atol=0.3, rtol=0)
    assert numbers.shape == (17, sprites.latent_channels)
    drawn = sprites.decode(sprites.encode(video), size=(height, width))
    assert float(psnr(drawn, video)) > 20


@torch.no_grad()
def test_of_two_things_the_one_that_moves_is_the_first_in_every_frame(sprites: Model) -> None:
    latents = sprites.encode(clip(motion="left", **PAIR))
    numbers = latents[0, :, :, 0, 0].T * sprites.std + sprites.mean
    first, other = numbers[:, :PLACE], numbers[:, sprites.each : sprites.each + PLACE]
    assert (first[:, 1].diff() < 0).all() and float(other[:, 1].std()) < 0.01
    assert (first[:, 0] < other[:, 0]).all()  # above
    assert (first[:, 3] > first[:, 5]).all() and (other[:, 3] < other[:, 5]).all()  # red, and blue


@torch.no_grad()
def test_it_is_drawn_at_any_size_and_a_square_stays_a_square(sprites: Model) -> None:
    latents = sprites.encode(clip(64))
    large = sprites.decode(latents, size=(128, 128))
    torch.testing.assert_close(
        torch.nn.functional.avg_pool3d(large, (1, 2, 2)), sprites.decode(latents, size=(64, 64)), atol=0.1, rtol=0
    )
    wide = sprites.decode(latents, size=(64, 128))
    torch.testing.assert_close(wide[..., 32:96], sprites.decode(latents, size=(64, 64)), atol=1e-4, rtol=0)


def test_training_learns_shapes() -> None:
    torch.manual_seed(0)
    model = build("tokenizers", "sprites", "debug", {"noise": 0.0})
    videos = torch.cat([clip(32, shape=shape, motion="growing") for shape in ("square", "star", "ring")])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    errors = []
    for _ in range(60):
        terms = model(Batch(video=videos))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        errors.append(float(terms["mse"].detach()))
    assert errors[-1] < 0.4 * errors[0]


@torch.no_grad()
def test_calibrated_latents_are_even_and_what_never_changes_stays_small() -> None:
    torch.manual_seed(0)
    model = build("tokenizers", "sprites", "debug")
    assert isinstance(model, Model)
    videos = [clip(32, motion=motion, shape=shape) for motion in ("right", "up", "growing") for shape in ("star", "heart")]
    back = [model.decode(model.encode(video), size=(32, 32)) for video in videos]
    model.calibrate(videos)
    latents = torch.cat([model.encode(video) for video in videos])
    assert latents.isfinite().all() and float(latents.abs().max()) < 20
    assert float(latents[:, PLACE + 4 + 6].abs().max()) == 0  # a second thing's presence: there is none, ever
    places = latents[:, :3]
    shows = 2 * (3 * PLACES**2 + 4 + 4 * SHAPES**2) + 3 + 6 * SLOPES**2  # of two things and a ground, in the preset of four numbers
    assert places.mean((0, 2, 3, 4)).abs().max() < 1e-3
    for spread in places.std((0, 2, 3, 4), correction=0):  # where a thing goes is heard above what else there is of it
        assert math.isclose(float(spread), PLACES / math.sqrt(shows / model.latent_channels), rel_tol=1e-3)
    for video, before in zip(videos, back, strict=True):
        torch.testing.assert_close(model.decode(model.encode(video), size=(32, 32)), before, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_nothing_at_all_is_a_ground_with_nothing_on_it(sprites: Model) -> None:
    video = torch.full((1, 3, 3, 32, 32), 0.25)
    latents = sprites.encode(video)
    assert latents.isfinite().all()
    torch.testing.assert_close(sprites.decode(latents, size=(32, 32)), video, atol=0.02, rtol=0)


def test_of_frames_with_nothing_on_them_nothing_is_learned() -> None:
    model = build("tokenizers", "sprites", "debug")
    terms = model(Batch(video=torch.zeros(1, 3, 2, 32, 32)))
    terms["loss"].backward()
    shown = torch.zeros(1, 3, 2, 32, 32)
    shown[..., 8:20, 8:20] = 0.9
    assert terms.keys() == model(Batch(video=shown)).keys()  # or batches of both could not be averaged
    assert float(terms["loss"].detach()) == 0 and all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_latents_of_another_shape_are_refused(sprites: Model) -> None:
    with pytest.raises(TheseusError, match="latents must be"):
        sprites.decode(torch.zeros(1, sprites.latent_channels, 3, 2, 2), size=(32, 32))


def test_a_thing_half_covers_a_pixel_at_the_contrast() -> None:
    assert foreground(torch.zeros(1, 3, 2, 2)).max() == 0
    assert foreground(torch.full((1, 3, 2, 2), 1.0)).min() > 0.95
    y, x = axes(2, 4)
    assert y.tolist() == [-0.5, 0.5] and x.tolist() == [-1.5, -0.5, 0.5, 1.5]
