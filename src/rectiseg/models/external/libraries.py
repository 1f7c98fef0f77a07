"""Models of transformers, torchvision and segmentation_models_pytorch, as parsers in eval mode."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rectiseg.models.external.fits import Fit, Size, edges_between, padded, stretched
from rectiseg.models.external.front import ExternalFront, Maps, PerBand, trial
from rectiseg.models.external.installed import library
from rectiseg.models.resnet import ResNet
from rectiseg.types import Image

MASK_SIZES: dict[str, Size | None] = {
    "Mask2FormerForUniversalSegmentation": (384, 384),
    "MaskFormerForInstanceSegmentation": None,
}
"""The models that answer by queries, with the size to which transformers resizes their masks before it sums them up."""


def from_transformers(model: Any, processor: Any = None) -> ExternalFront:
    """A transformers model that parses scenes: any ``...ForSemanticSegmentation``, Mask2Former or MaskFormer.

    Normalisation, order of the bands and input size are those of its image processor, by default the one published
    with the model. Two things differ: images are resized bilinearly whatever filter it names, and never cropped.
    Another model, no image processor, or one of sizes that cannot be followed raise ValueError.
    """
    kind = type(model).__name__
    if kind not in MASK_SIZES and not kind.endswith("ForSemanticSegmentation"):
        raise ValueError(f"a {kind} gives no map a class; take a ...ForSemanticSegmentation or {', '.join(MASK_SIZES)}")
    settings = (published_processor(model) if processor is None else processor).to_dict()
    mean, std = normalisation(settings)
    names = model.config.id2label
    return ExternalFront(
        SummedQueries(model, MASK_SIZES[kind]) if kind in MASK_SIZES else model,
        len(names),
        mean,
        std,
        bgr=bool(settings.get("do_flip_channel_order")),
        fit=fit_of(settings),
        probabilities=kind in MASK_SIZES,
        classes=tuple(names[index] for index in range(len(names))),
    ).eval()


def published_processor(model: Any) -> Any:
    """The image processor that lies beside the model's weights, in its folder or on the hub."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(model.name_or_path)
    except OSError as error:
        name = model.name_or_path or f"this {type(model).__name__}"
        raise ValueError(f"{name} has no image processor beside it; give one as processor") from error


def normalisation(settings: Mapping[str, Any]) -> tuple[PerBand, PerBand]:
    """Mean and standard deviation for values in [0, 1]; an image processor's are for 0..255 times its factor."""
    white = 255 * settings["rescale_factor"] if settings["do_rescale"] else 255
    if not settings.get("do_normalize"):
        return (0.0, 0.0, 0.0), per_unit((1, 1, 1), white)
    return per_unit(settings["image_mean"], white), per_unit(settings["image_std"], white)


def per_unit(values: Sequence[float], white: float) -> PerBand:
    """In [0, 1] what they are on a scale that ends at white."""
    first, second, third = (value / white for value in values)
    return first, second, third


def fit_of(settings: Mapping[str, Any]) -> Fit:
    if not settings["do_resize"]:
        return padded()
    size = settings["size"]
    if size.keys() >= {"height", "width"}:
        return stretched((size["height"], size["width"]))
    if "shortest_edge" in size:
        multiple = settings.get("size_divisor") or 1
        return edges_between(size["shortest_edge"], size.get("longest_edge"), multiple)
    raise ValueError(
        f"the image processor resizes to {size}, which cannot be followed; "
        "give one whose size has height and width, or a shortest_edge"
    )


class SummedQueries(nn.Module):
    """Scores of the classes out of an answer by queries, as transformers sums them up; they do not sum to one.

    The probabilities of each query's classes, without the last, which stands for none of them, weigh its mask's.
    """

    def __init__(self, model: nn.Module, mask_size: Size | None):
        super().__init__()
        self.model = model
        self.mask_size = mask_size

    def forward(self, image: Image) -> Maps:
        answer = self.model(image)
        masks = answer.masks_queries_logits
        if self.mask_size is not None:
            masks = F.interpolate(masks, self.mask_size, mode="bilinear", align_corners=False)
        classes = answer.class_queries_logits.softmax(dim=-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())


def from_torchvision(model: nn.Module, classes: tuple[str, ...] = ()) -> ExternalFront:
    """FCN, DeepLabV3 or LRASPP of torchvision, with ImageNet's normalisation; images keep their size.

    The names of its classes are with its weights: ``tuple(weights.meta["categories"])``.
    """
    return ExternalFront(model, trial(model.eval()).shape[1], ResNet.MEAN, ResNet.STD, classes=classes).eval()


def from_smp(
    model: Any, mean: PerBand | None = None, std: PerBand | None = None, classes: tuple[str, ...] = ()
) -> ExternalFront:
    """A model of segmentation_models_pytorch, its encoder one of its own or of timm's ("tu-...").

    ``mean`` and ``std``, for RGB in [0, 1], are by default those with which the encoder was pretrained; of most
    encoders the library has them from the hub. Images are continued to the encoder's stride. A model that ends in
    something else than logits, and an encoder of which nothing is known, raise ValueError.
    """
    smp = library("segmentation_models_pytorch", "smp")
    if not isinstance(model, smp.base.SegmentationModel):
        raise ValueError(f"a {type(model).__name__} is no model of segmentation_models_pytorch; see docs/fronts.md")
    if model.config["activation"] is not None:
        raise ValueError(f"the model ends in {model.config['activation']}, not in logits; make it with activation=None")
    if mean is None and std is None:
        mean, std, bgr = pretrained_normalisation(model)
    elif mean is None or std is None:
        raise ValueError("mean and std belong together; give both, or neither for those of the encoder")
    else:
        bgr = False
    fit = padded(model.encoder.output_stride)
    return ExternalFront(model, trial(model.eval()).shape[1], mean, std, bgr=bgr, fit=fit, classes=classes).eval()


def pretrained_normalisation(model: Any) -> tuple[PerBand, PerBand, bool]:
    """What the encoder's weights were trained with: mean and standard deviation for [0, 1], and whether in BGR."""
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    name, weights = model.config["encoder_name"], model.config["encoder_weights"]
    try:
        found = get_preprocessing_params(name, weights or "imagenet")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"how the encoder {name} wants its images normalised cannot be found out; give mean and std"
        ) from error
    white = found["input_range"][1]
    return per_unit(found["mean"], white), per_unit(found["std"], white), found["input_space"] == "BGR"
