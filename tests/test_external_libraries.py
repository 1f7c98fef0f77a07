"""Models of transformers, torchvision and segmentation_models_pytorch as parsers: what the libraries give by hand."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import random
from oracles import mend_torchvision
from rectiseg.models.combine import SceneParser
from rectiseg.models.external import from_smp, from_torchvision, from_transformers
from rectiseg.models.lrn import LRN
from rectiseg.models.resnet import ResNet

NAMES = ("sky", "building", "road", "tree", "car")
ID2LABEL = dict(enumerate(NAMES))
MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.2)


@cache
def imported(name: str) -> ModuleType:
    """A library whose import needs torchvision's."""
    mend_torchvision()
    return pytest.importorskip(name, reason=f"{name} is not installed")


def randomized(model: nn.Module) -> Any:
    """In eval mode, with weights that tell the classes apart."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
    return model.eval()


def segformer() -> tuple[Any, Any]:
    transformers = imported("transformers")
    config = transformers.SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
        id2label=ID2LABEL,
    )
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 96}, image_mean=MEAN, image_std=STD)
    return randomized(transformers.SegformerForSemanticSegmentation(config)), processor


def upernet() -> tuple[Any, Any]:
    transformers = imported("transformers")
    backbone = transformers.ConvNextConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], use_auxiliary_head=False, id2label=ID2LABEL
    )
    processor = transformers.SegformerImageProcessor(do_resize=False, rescale_factor=1 / 127.5)
    return randomized(transformers.UperNetForSemanticSegmentation(config)), processor


def mobilevit() -> tuple[Any, Any]:
    """It takes BGR in [0, 1], and its image processor wants to cut out the centre."""
    transformers = imported("transformers")
    config = transformers.MobileViTConfig(
        hidden_sizes=[8, 12, 16],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16],
        num_attention_heads=2,
        aspp_out_channels=8,
        id2label=ID2LABEL,
    )
    processor = transformers.MobileViTImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 32, "width": 32}, resample=2
    )
    return randomized(transformers.MobileViTForSemanticSegmentation(config)), processor


def swin() -> Any:
    return imported("transformers").SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def mask2former() -> tuple[Any, Any]:
    transformers = imported("transformers")
    config = transformers.Mask2FormerConfig(
        backbone_config=swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        dim_feedforward=16,
        num_attention_heads=2,
        num_queries=7,
        id2label=ID2LABEL,
    )
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 48, "longest_edge": 96}, size_divisor=32)
    return randomized(transformers.Mask2FormerForUniversalSegmentation(config)), processor


def maskformer() -> tuple[Any, Any]:
    transformers = imported("transformers")
    decoder = transformers.DetrConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=7,
    )
    config = transformers.MaskFormerConfig(
        backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, id2label=ID2LABEL
    )
    processor = transformers.MaskFormerImageProcessor(size={"shortest_edge": 48, "longest_edge": 96}, size_divisor=32)
    return randomized(transformers.MaskFormerForInstanceSegmentation(config)), processor


def by_hand(model: Any, processor: Any, image: Tensor) -> Any:
    """The model's answer to what its image processor makes of the whole images."""
    whole = {"do_center_crop": False} if hasattr(processor, "crop_size") and processor.crop_size else {}
    # 0..255 in floats: bytes would be rounded after they are resized.
    inputs = processor(images=list(255 * image), return_tensors="pt", **whole)
    with torch.inference_mode():
        return model(inputs["pixel_values"])


@pytest.mark.parametrize("make", [segformer, upernet, mobilevit])
def test_a_semantic_model_gives_its_logits_upsampled(make: Any):
    model, processor = make()
    image = random(2, 3, 37, 53)
    with torch.inference_mode():
        logits = from_transformers(model, processor)(image)
    answer = by_hand(model, processor, image)
    expected = F.interpolate(answer.logits, (37, 53), mode="bilinear", align_corners=False)
    scale = expected.std()  # which random weights make very small
    torch.testing.assert_close(logits / scale, expected / scale, atol=1e-3, rtol=1e-3)
    labels = torch.stack(processor.post_process_semantic_segmentation(answer, target_sizes=[(37, 53)] * 2))
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.999


@pytest.mark.parametrize("make", [mask2former, maskformer])
def test_a_model_of_queries_gives_the_logarithm_of_the_librarys_scores(make: Any):
    """At a size above that of its masks: below it the library drops samples that we average."""
    model, processor = make()
    image = random(2, 3, 389, 401)
    with torch.inference_mode():
        logits = from_transformers(model, processor)(image)
    found = processor.post_process_semantic_segmentation(
        by_hand(model, processor, image), target_sizes=[(389, 401)] * 2, return_segmentation_scores=True
    )
    scores = torch.stack([one.segmentation_scores for one in found])
    torch.testing.assert_close(logits.softmax(dim=1), scores / scores.sum(dim=1, keepdim=True), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(logits.logsumexp(dim=1), torch.zeros(2, 389, 401), atol=1e-5, rtol=0)
    assert (logits.argmax(dim=1) == torch.stack([one.segmentation for one in found])).float().mean() > 0.999


def test_the_names_of_the_classes_and_eval_mode_come_along():
    front = from_transformers(*segformer())
    assert (front.num_classes, front.classes) == (5, NAMES)
    assert not front.training


def test_the_published_image_processor_is_the_default(tmp_path: Path):
    model, processor = segformer()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    image = random(1, 3, 37, 53)
    with torch.inference_mode():
        published = from_transformers(type(model).from_pretrained(tmp_path))(image)
        assert published.equal(from_transformers(model, processor)(image))


def test_a_model_without_image_processor_asks_for_one(tmp_path: Path):
    model, _ = segformer()
    model.save_pretrained(tmp_path)
    for nameless in (model, type(model).from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match="has no image processor beside it; give one as processor"):
            from_transformers(nameless)


def test_an_image_processor_that_cannot_be_followed_is_named():
    model, processor = segformer()
    processor.size = {"max_height": 64, "max_width": 96}
    with pytest.raises(ValueError, match=r"the image processor resizes to \{.*\}, which cannot be followed"):
        from_transformers(model, processor)


def test_another_kind_of_model_is_refused():
    with pytest.raises(ValueError, match=r"a Linear gives no map a class; take a \.\.\.ForSemanticSeg"):
        from_transformers(nn.Linear(3, 5))


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions_models_see_imagenets_normalisation(name: str):
    models = imported("torchvision").models.segmentation
    model = randomized(getattr(models, name)(weights=None, weights_backbone=None, num_classes=5))
    image = random(2, 3, 37, 53)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ResNet.MEAN, ResNet.STD))
    front = from_torchvision(model, NAMES)
    with torch.inference_mode():
        torch.testing.assert_close(front(image), model((image - mean) / std)["out"])
    assert (front.num_classes, front.classes) == (5, NAMES)


def unet(encoder: str = "tu-mobilenetv3_small_050", **options: Any) -> Any:
    smp = imported("segmentation_models_pytorch")
    return randomized(
        smp.Unet(
            encoder, encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 4), **{"classes": 5, **options}
        )
    )


@pytest.mark.parametrize("options", [{}, {"aux_params": {"classes": 2}}], ids=["plain", "with a label of the image"])
def test_smps_models_see_edges_continued_and_their_encoders_normalisation(options: dict[str, Any]):
    model = unet(**options)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ResNet.MEAN, ResNet.STD))
    image = random(2, 3, 37, 53)
    continued = F.pad(image, (0, 3, 0, 3), mode="replicate")
    with torch.inference_mode():
        answer = model((continued - mean) / std)
        expected = (answer[0] if options else answer)[..., :37, :53]
        torch.testing.assert_close(from_smp(model, classes=NAMES)(image), expected)


def test_smps_models_take_a_normalisation_of_ones_own():
    model, image = unet("resnet18"), random(1, 3, 40, 56)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        torch.testing.assert_close(from_smp(model, MEAN, STD)(image), model((image - mean) / std))
    with pytest.raises(ValueError, match="mean and std belong together"):
        from_smp(model, mean=MEAN)


def test_an_encoders_own_scale_and_order_of_bands_are_followed(monkeypatch: pytest.MonkeyPatch):
    """As some of the library's oldest encoders have them."""
    encoders = imported("segmentation_models_pytorch").encoders
    own = {"mean": [104, 117, 124], "std": [1, 2, 4], "input_space": "BGR", "input_range": [0, 255]}
    monkeypatch.setattr(encoders, "get_preprocessing_params", lambda name, pretrained: own)
    model, image = unet("resnet18"), random(1, 3, 40, 56)
    mean, std = (torch.tensor(own[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model((255 * image.flip(1) - mean) / std)
        torch.testing.assert_close(from_smp(model)(image), expected, atol=1e-3, rtol=1e-3)


def test_an_encoder_of_which_nothing_is_known_asks_for_a_normalisation(monkeypatch: pytest.MonkeyPatch):
    def offline(name: str, pretrained: str) -> None:
        raise OSError("no hub")

    monkeypatch.setattr(imported("segmentation_models_pytorch").encoders, "get_preprocessing_params", offline)
    with pytest.raises(ValueError, match=r"how the encoder resnet18 wants its images .* give mean and std"):
        from_smp(unet("resnet18"))


def test_smps_models_that_end_in_no_logits_are_refused():
    with pytest.raises(ValueError, match="ends in softmax2d, not in logits; make it with activation=None"):
        from_smp(unet(activation="softmax2d"))
    with pytest.raises(ValueError, match="two classes or more; this network knows 1"):
        from_smp(unet(classes=1))
    with pytest.raises(ValueError, match="a Linear is no model of segmentation_models_pytorch"):
        from_smp(nn.Linear(3, 5))


def test_a_missing_library_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'rectiseg\[smp\]'"):
        from_smp(nn.Linear(3, 5))


def test_refiners_follow_them():
    torch.manual_seed(0)
    for front in (from_transformers(*segformer()), from_transformers(*maskformer()), from_smp(unet(), MEAN, STD)):
        parser = SceneParser(front, LRN(5, widths=(4,))).eval()
        with torch.inference_mode():
            assert parser(random(2, 3, 37, 53)).shape == (2, 5, 37, 53)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_they_move_to_a_gpu():
    image = random(2, 3, 37, 53)
    for front in (from_transformers(*segformer()), from_smp(unet(), MEAN, STD)):
        with torch.inference_mode():
            expected = front(image)
            torch.testing.assert_close(front.cuda()(image.cuda()).cpu(), expected, atol=1e-2, rtol=1e-2)
