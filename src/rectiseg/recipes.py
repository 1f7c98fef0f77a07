"""Experiments: the paper's settings and ours, one function each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from rectiseg.data.registry import DatasetName
from rectiseg.models.lrn import NARROW, TABLE_1
from rectiseg.models.pretrained import EncoderName
from rectiseg.settings import Settings

SETTINGS = ("front", "grn", "lrn", "light", "bilateral", "context")
"""What recipes have settings for."""


@dataclass(frozen=True)
class Recipe:
    """An experiment: the data, the networks, and how each of them is trained."""

    name: str
    dataset: DatasetName
    encoder: EncoderName
    front: Settings
    grn: Settings
    lrn: Settings
    light: Settings  # the light GRN, which is ours
    bilateral: Settings  # BilateralLRN, likewise
    context: Settings  # MS-Dilation, with which Table 2 compares
    # Which ends the whole parser, after GRN, or after the light GRN.
    last: Literal["lrn", "bilateral", "bilateral_light"] = "lrn"
    iterations: int = 3
    full_backpropagation: bool = False  # through all iterations, where the others take each for itself
    neighborhood: int = 7
    lrn_widths: tuple[int, ...] = TABLE_1
    grn_starts_from: Literal["encoder", "front"] = "encoder"  # the pretrained encoder, or what the front made of it
    grn_output_stride: int = 8  # 16 or 32 cost less than its front, and see regions more coarsely
    class_balance: float = 0.0  # the power of the median-frequency class weights of the front's loss
    # Cross-fitting: refiners learn from so many fronts, none of which saw its images; 0: from the front itself.
    folds: int = 0
    front_at_scales: bool = True  # refiners see what it says at each of their scales; else what it says at full size
    without_drive: Settings | None = None  # trains the fronts that leave out a drive, to be measured on it


def ade20k_paper() -> Recipe:
    """Table 2, left column (section 4.1). ResNet-101, 500 x 500 crops; the paper reports 41.12 % mIoU."""
    front = Settings(
        phases=((30, 1e-3), (10, 1e-4)),
        crop=(500, 500),
        scales=(0.5, 0.75, 1.0, 1.25, 1.5),
        optimizer="sgd",
        schedule="constant",
        frozen_batch_norm=True,
        clip=None,
    )
    return Recipe(
        name="ade20k_paper",
        dataset="ade20k",
        encoder="resnet101",
        front=front,
        grn=replace(front, phases=((10, 1e-3), (10, 1e-4))),
        lrn=replace(front, phases=((20, 1e-4),), frozen_batch_norm=False),
        light=like_bilateral(front, epochs=20),
        bilateral=like_bilateral(front, epochs=20),
        context=replace(front, phases=((10, 1e-3), (10, 1e-4))),  # the paper does not say: as GRN
    )


def cityscapes_paper() -> Recipe:
    """Table 2, right column. ResNet-101, 700 x 700 crops; the paper reports 75.63 % mIoU."""
    return resized(ade20k_paper(), "cityscapes_paper", "cityscapes", (700, 700), (0.5, 0.75, 1.0, 1.25))


def camvid_paper() -> Recipe:
    """The paper's recipe on CamVid, which it does not report. ResNet-101, crops of 320 x 320."""
    return resized(ade20k_paper(), "camvid_paper", "camvid", (320, 320), (0.5, 0.75, 1.0, 1.25))


def resized(recipe: Recipe, name: str, dataset: str, crop: tuple[int, int], scales: tuple[float, ...]) -> Recipe:
    stages = {name: replace(getattr(recipe, name), crop=crop, scales=scales) for name in SETTINGS}
    return replace(recipe, name=name, dataset=dataset, **stages)  # pyright: ignore


def like_bilateral(other: Settings, epochs: int) -> Settings:
    """How a BilateralLRN or a light GRN is trained where the other stages are trained like this."""
    return replace(
        other,
        phases=((epochs, 2e-3),),
        jitter=0.2,
        displacement=4.0,
        optimizer="adamw",
        schedule="polynomial",
        weight_decay=1e-4,
        head_rate=1.0,
        frozen_batch_norm=False,
        clip=1.0,
        cross_entropy=0.05,
        lovasz=1.0,
    )


def camvid_lite() -> Recipe:
    """The shipped model: CamVid on two cores of a CPU in some hours. EfficientNet-Lite0, a light GRN, a BilateralLRN.

    One iteration of GRN: further ones, which the paper's recipes have, cost thin objects more than they gave others.
    """
    front = Settings(
        phases=((32, 6e-4),),
        crop=(240, 320),
        scales=(0.75, 1.0, 1.25, 1.5),
        jitter=0.2,
        weight_decay=1e-2,
        head_rate=3.0,
        warmup=50,
        validate_every=8,
    )
    refiner = replace(front, scales=(1.0,), jitter=0.0, lovasz=1.0)
    augmented = replace(refiner, scales=front.scales, jitter=front.jitter)
    return Recipe(
        name="camvid_lite",
        dataset="camvid",
        encoder="lite0",
        front=front,
        grn=replace(augmented, phases=((4, 2e-4),), anneal_auxiliary=True, validate_every=2),
        lrn=replace(refiner, phases=((8, 2e-3),), crop=(160, 224), head_rate=1.0, weight_decay=1e-4, validate_every=8),
        light=like_bilateral(replace(refiner, validate_every=4), epochs=8),
        bilateral=like_bilateral(replace(refiner, crop=(160, 224), validate_every=8), epochs=8),
        context=replace(refiner, phases=((8, 1e-3),), head_rate=1.0, weight_decay=1e-4),
        last="bilateral_light",
        iterations=1,
        lrn_widths=NARROW,
        grn_starts_from="front",
        class_balance=0.5,
        front_at_scales=False,
        without_drive=replace(front, phases=((16, 6e-4),)),
    )


def camvid_best() -> Recipe:
    """The same on a GPU, larger and longer: EfficientNet-Lite2, Table 1's LRN, the paper's three iterations of GRN.

    Not measured yet.
    """
    lite = camvid_lite()
    front = replace(lite.front, phases=((120, 6e-4),), crop=(320, 448), batch=8, precision="bf16", validate_every=20)
    refiner = replace(front, lovasz=1.0)
    return replace(
        lite,
        name="camvid_best",
        encoder="lite2",
        front=front,
        grn=replace(refiner, phases=((24, 2e-4),), anneal_auxiliary=True, validate_every=4),
        lrn=replace(refiner, phases=((24, 1e-3),), scales=(1.0,), jitter=0.0, head_rate=1.0, weight_decay=1e-4),
        light=like_bilateral(replace(refiner, scales=(1.0,)), epochs=24),
        bilateral=like_bilateral(refiner, epochs=24),
        iterations=3,
        full_backpropagation=True,
        lrn_widths=TABLE_1,
        without_drive=replace(front, phases=((60, 6e-4),)),
    )


def scenes_tiny() -> Recipe:
    """Generated scenes, some minutes on a CPU: to see the stages work without any data."""
    front = Settings(
        phases=((4, 1e-3),),
        crop=(96, 128),
        weight_decay=1e-2,
        head_rate=3.0,
        warmup=10,
        validate_every=4,
        save_every=10,
    )
    return Recipe(
        name="scenes_tiny",
        dataset="scenes",
        encoder="lite0",
        front=front,
        grn=replace(front, phases=((1, 2e-4),)),
        lrn=replace(front, phases=((4, 3e-3),), head_rate=1.0),
        light=like_bilateral(front, epochs=4),
        bilateral=like_bilateral(front, epochs=4),
        context=replace(front, phases=((4, 1e-3),), head_rate=1.0),
        iterations=2,
        lrn_widths=(16, 16, 16, 16, 16, 16),
        grn_starts_from="front",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (camvid_lite, camvid_best, camvid_paper, scenes_tiny, ade20k_paper, cityscapes_paper)
}
