"""Scale, flip and crop: image, labels and logits stay on each other. Their values say where they come from."""

import pytest
import torch
from torch import Generator, Tensor

from rectiseg.data.transforms import LUMA, coin, draw, jittered, random_crop, view_image, view_labels
from rectiseg.ops.resize import scaled
from rectiseg.types import IGNORE_INDEX

HEIGHT, WIDTH = 13, 17  # 221 pixels: a label names its pixel
SIDE = 20  # an image's values are its coordinates over this


def coordinates(height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    """Image (y, x, a constant), labels y * width + x and logits (y, x), all of the pixel that they belong to."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([y, x, torch.full_like(x, SIDE // 2)]) / SIDE
    return image, y * width + x, torch.stack([y, x]).float()


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def says(labels: Tensor) -> Tensor:
    """The coordinates that labels name."""
    return torch.stack([labels // WIDTH, labels % WIDTH])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5])
def test_image_and_labels_of_a_view_stay_on_each_other(scale: float, flip: bool):
    image, labels, _ = coordinates()
    seen, named = view_image(image, scale, flip), says(view_labels(labels, scale, flip))
    assert seen.shape[1:] == named.shape[1:] == scaled((HEIGHT, WIDTH), scale)
    distance = (seen[:2] * SIDE - named).abs()
    assert distance.max() < 1  # labels are nearest, and the image's border is smoothed on one side
    assert distance[:, 2:-2, 2:-2].max() <= 0.5 + 1e-4
    assert torch.allclose(seen[2], image[2, 0, 0])


def test_a_flip_mirrors_left_and_right_only():
    image, labels, _ = coordinates()
    assert torch.equal(view_image(image, 1.0, True)[1, 0] * SIDE, torch.arange(WIDTH - 1.0, -1, -1))
    assert torch.equal(view_labels(labels, 1.0, True)[:, 0], labels[:, -1])


def test_the_view_at_scale_one_is_the_image_itself():
    image, labels, _ = coordinates()
    assert torch.equal(view_image(image, 1.0, False), image)
    assert torch.equal(view_labels(labels, 1.0, False), labels)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.5])
def test_scaling_invents_no_label_and_leaves_the_image_in_its_range(scale: float):
    noise = torch.rand(3, 11, 14, generator=generator())
    labels = torch.where(noise[0] < 0.3, IGNORE_INDEX, 7)
    assert set(view_labels(labels, scale, False).unique().tolist()) == {7, IGNORE_INDEX}
    black_and_white = view_image(noise.round(), scale, False)
    assert black_and_white.min() >= 0
    assert black_and_white.max() <= 1


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((33, 47), 0.75, (25, 35)), ((33, 47), 1.25, (41, 59)), ((360, 480), 0.5, (180, 240)), ((1, 1), 0.5, (1, 1))],
)
def test_sizes_are_rounded_and_never_empty(size: tuple[int, int], scale: float, expected: tuple[int, int]):
    assert scaled(size, scale) == expected
    assert view_image(torch.rand(3, *size), scale, False).shape == (3, *expected)
    assert view_labels(torch.zeros(size, dtype=torch.int64), scale, True).shape == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_is_the_same_window_of_all_three(seed: int):
    image, labels, logits = random_crop(*coordinates(), (5, 8), generator(seed))
    assert logits is not None
    assert image.shape[1:] == labels.shape == logits.shape[1:] == (5, 8)
    assert torch.equal(says(labels), logits)
    assert torch.equal(image[:2] * SIDE, logits)
    top, left = divmod(int(labels[0, 0]), WIDTH)
    assert torch.equal(labels, coordinates()[1][top : top + 5, left : left + 8])


def test_every_window_can_be_drawn():
    drawn = generator()
    corners = {int(random_crop(*coordinates(), (11, 16), drawn)[1][0, 0]) for _ in range(100)}
    assert corners == {top * WIDTH + left for top in range(3) for left in range(2)}


def test_logits_may_be_left_out_and_do_not_change_the_window():
    image, labels, logits = coordinates()
    alone = random_crop(image, labels, None, (4, 6), generator(3))
    beside = random_crop(image, labels, logits, (4, 6), generator(3))
    assert alone[2] is None
    assert torch.equal(alone[0], beside[0])
    assert torch.equal(alone[1], beside[1])


def test_a_window_beyond_the_image_is_ignored_there():
    image, labels, logits = coordinates()
    cropped, padded, maps = random_crop(image, labels, logits, (HEIGHT + 3, WIDTH + 2), generator())
    assert maps is not None
    inside = torch.zeros(HEIGHT + 3, WIDTH + 2, dtype=torch.bool)
    inside[:HEIGHT, :WIDTH] = True
    assert (padded[~inside] == IGNORE_INDEX).all()
    assert torch.equal(padded[inside], labels.flatten())
    assert torch.equal(maps[:, :HEIGHT, :WIDTH], logits)
    assert torch.equal(cropped[:, :HEIGHT, :WIDTH], image)


def test_an_image_may_be_too_small_in_one_direction_only():
    _, labels, logits = random_crop(*coordinates(), (HEIGHT + 4, 6), generator(5))
    assert logits is not None
    assert (labels[HEIGHT:] == IGNORE_INDEX).all()
    assert torch.equal(says(labels[:HEIGHT]), logits[:, :HEIGHT])


def test_one_pixel_can_be_scaled_flipped_and_cropped():
    image, labels, logits = coordinates(1, 1)
    assert view_image(image, 1.5, True).shape == (3, 2, 2)
    assert random_crop(image, labels, logits, (1, 1), generator())[1].tolist() == [[0]]


def test_the_same_generator_gives_the_same_choices():
    def choices(seed: int) -> list[object]:
        source = generator(seed)
        crops = [random_crop(*coordinates(), (5, 8), source)[1].tolist() for _ in range(3)]
        return [*crops, [draw((0.5, 1.0, 2.0), source) for _ in range(20)], [coin(source) for _ in range(20)]]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)


def test_the_state_of_the_whole_program_is_not_touched():
    before = torch.get_rng_state()
    random_crop(*coordinates(), (5, 8), generator())
    assert draw((1.0,), generator()) == 1.0
    coin(generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_every_scale_and_both_sides_are_drawn():
    source = generator()
    assert {draw((0.5, 1.0, 2.0), source) for _ in range(50)} == {0.5, 1.0, 2.0}
    assert {coin(source) for _ in range(50)} == {False, True}


def test_jitter_keeps_within_its_factors():
    """Of a grey picture only brightness and contrast change, and a flat one has no contrast."""
    flat = torch.full((3, 4, 5), 0.5)
    seen = torch.stack([jittered(flat, 0.2, generator(seed)) for seed in range(50)])
    assert torch.equal(seen, seen[:, :1, :1, :1].expand_as(seen))
    assert 0.4 <= seen.min() < 0.42
    assert 0.58 < seen.max() <= 0.6


def test_jitter_changes_saturation_and_contrast_about_the_mean():
    image = 0.25 + 0.5 * torch.rand(3, 6, 7, generator=generator())
    grey = torch.tensor(LUMA).view(3, 1, 1)
    for seed in range(10):
        brightness, contrast, saturation = (1 + 0.1 * (2 * torch.rand(3, generator=generator(seed)) - 1)).tolist()
        seen = jittered(image, 0.1, generator(seed))
        before, after = (grey * image).sum(dim=0), (grey * seen).sum(dim=0)
        torch.testing.assert_close(after - after.mean(), contrast * brightness * (before - before.mean()))
        torch.testing.assert_close(seen - after, saturation * contrast * brightness * (image - before))


def test_jitter_leaves_no_value_outside_an_image():
    image = torch.rand(3, 6, 7, generator=generator())
    for seed in range(20):
        seen = jittered(image, 0.9, generator(seed))
        assert seen.min() >= 0
        assert seen.max() <= 1
    assert torch.equal(jittered(image, 0.9, generator(3)), jittered(image, 0.9, generator(3)))
