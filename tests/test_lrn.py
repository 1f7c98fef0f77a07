"""The Local-boundary Refinement Network."""

from pathlib import Path

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import SIZES, random, random_logits
from rectiseg.data.datasets import CamVid
from rectiseg.data.images import read_image
from rectiseg.data.scenes import GeneratedScenes
from rectiseg.metrics import Scores
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner
from rectiseg.models.lrn import LRN, NARROW
from rectiseg.types import IGNORE_INDEX, Refiner
from scores import coarse, kept, label_maps, perfect

STREET = Path(__file__).parent.parent / "examples" / "street.jpg"
EXPORTED_SIZES = [(6, 7), (3, 131)]


def lively(num_classes: int = 5, neighborhood: int = 5, **settings: str) -> LRN:
    """Far from the identity."""
    torch.manual_seed(5)
    lrn = LRN(num_classes, neighborhood, widths=(6, 7), **settings).eval()  # pyright: ignore
    nn.init.normal_(lrn.head.weight, std=0.5)
    return lrn


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("neighborhood", [1, 7])
def test_any_height_and_width_works(neighborhood: int, height: int, width: int) -> None:
    refiner: Refiner = lively(neighborhood=neighborhood)
    with torch.inference_mode():
        refined = refiner(random(1, 3, height, width), random_logits(1, 5, height, width))
    assert refined.shape == (1, 5, height, width)
    assert refined.isfinite().all()


@pytest.fixture(scope="module")
def scenes() -> tuple[Tensor, Tensor, int]:
    """Images, labels and number of classes."""
    samples = list(GeneratedScenes(4, height=41, width=57))
    classes = len(GeneratedScenes.classes)
    labels = label_maps([sample.labels for sample in samples], IGNORE_INDEX, classes)
    return torch.stack([sample.image for sample in samples]), labels, classes + 1


@pytest.fixture(scope="module")
def street(camvid: Path) -> tuple[Tensor, Tensor, int]:
    """The same of the middle of images of CamVid's val split."""
    dataset = CamVid(camvid, "val")
    samples = [dataset[index] for index in (0, 50, 100)]
    labels = label_maps([sample.labels for sample in samples], IGNORE_INDEX, len(dataset.classes))
    images = torch.stack([sample.image for sample in samples])
    middle = (..., slice(60, 261), slice(90, 391))
    return images[middle], labels[middle], len(dataset.classes) + 1


def untrained(num_classes: int, wide: bool = False) -> LRN:
    torch.manual_seed(0)
    return (LRN(num_classes) if wide else LRN.narrow(num_classes)).eval()


def literal(num_classes: int) -> LRN:
    """Eq. 6 to the letter: kernels of N(0, 0.001^2) in every layer, biases of 0 but for the centre's, which is 1."""
    torch.manual_seed(0)
    lrn = LRN(num_classes, 7, NARROW, center_bias=1.0).eval()
    for convolution in (*lrn.body[::3], lrn.head):
        nn.init.normal_(convolution.weight, std=0.001)  # pyright: ignore
        assert convolution.bias.sum() == (convolution is lrn.head)  # pyright: ignore
    return lrn


def labels_kept(lrn: LRN, images: Tensor, logits: Tensor) -> Scores:
    with torch.inference_mode():
        return kept(logits, lrn(images, logits))


@pytest.mark.parametrize("source", ["scenes", "street"])
def test_an_untrained_lrn_keeps_perfect_label_maps_whole(source: str, request: pytest.FixtureRequest) -> None:
    images, labels, classes = request.getfixturevalue(source)
    assert labels_kept(untrained(classes), images, perfect(labels, classes)).pixel_accuracy == 1


@pytest.mark.parametrize("source", ["scenes", "street"])
def test_an_untrained_lrn_keeps_nearly_all_labels_of_coarse_scores(source: str, request: pytest.FixtureRequest) -> None:
    images, labels, classes = request.getfixturevalue(source)
    scores = labels_kept(untrained(classes), images, coarse(labels, classes))
    assert scores.pixel_accuracy >= 0.995
    assert scores.mean_iou >= 0.99


def test_table_1s_widths_keep_labels_as_the_narrow_ones_do(scenes: tuple[Tensor, Tensor, int]) -> None:
    images, labels, classes = (value if isinstance(value, int) else value[:1] for value in scenes)
    lrn = untrained(classes, wide=True)
    assert labels_kept(lrn, images, perfect(labels, classes)).pixel_accuracy == 1
    assert labels_kept(lrn, images, coarse(labels, classes)).pixel_accuracy >= 0.995


@pytest.mark.parametrize("source", ["scenes", "street"])
def test_the_papers_start_keeps_neither(source: str, request: pytest.FixtureRequest) -> None:
    """The small classes are those that go: on street scenes 99.7 % of the pixels of coarse scores stay."""
    images, labels, classes = request.getfixturevalue(source)
    lrn = literal(classes)
    assert labels_kept(lrn, images, perfect(labels, classes)).mean_iou < 0.95
    assert labels_kept(lrn, images, coarse(labels, classes)).mean_iou < 0.97


def test_an_untrained_lrn_keeps_a_trained_parsers_labels_and_the_papers_start_does_not() -> None:
    image = read_image(STREET)[None, :, 150:390, 300:780]
    trained = load_refiner(SHIPPED.with_name("camvid_lite_lrn_alone.safetensors"))
    with torch.inference_mode():
        smooth = load_parser().front(image)
        sharp = trained(image, smooth)
    for said in (smooth, sharp):
        ours, papers = (labels_kept(lrn, image, said) for lrn in (untrained(11), literal(11)))
        pixels = said.argmax(dim=1).flatten().bincount(minlength=11).tolist()
        large = [iou for iou, count in zip(ours.iou, pixels, strict=True) if count >= 100]  # a speck is all boundary
        assert ours.pixel_accuracy >= 0.995
        assert sum(large) / len(large) >= 0.95
        assert papers.pixel_accuracy < 0.995
        assert papers.mean_iou < 0.9


def test_a_flat_prediction_stays_as_it_is() -> None:
    logits = random_logits(1, 5, 1, 1).expand(1, 5, 6, 7)
    with torch.inference_mode():
        torch.testing.assert_close(lively()(random(1, 3, 6, 7), logits), logits)


def test_zeros_around_the_image_pull_at_its_border_only() -> None:
    logits = random_logits(1, 5, 1, 1).expand(1, 5, 8, 9)
    with torch.inference_mode():
        refined = lively(border="zeros")(random(1, 3, 8, 9), logits)
    torch.testing.assert_close(refined[..., 2:-2, 2:-2], logits[..., 2:-2, 2:-2])
    assert refined[..., 0, 0].abs().lt(logits[..., 0, 0].abs()).all()


def test_the_result_lies_within_its_neighbourhood_class_by_class() -> None:
    m, logits = 5, random_logits(2, 5, 6, 7)
    with torch.inference_mode():
        refined = lively(neighborhood=m)(random(2, 3, 6, 7), logits)
    largest = F.max_pool2d(logits, m, stride=1, padding=m // 2)
    smallest = -F.max_pool2d(-logits, m, stride=1, padding=m // 2)
    assert (refined <= largest + 1e-5).all()
    assert (refined >= smallest - 1e-5).all()
    assert not refined.isclose(logits, atol=0.1).any(dim=1).all()


def test_a_neighbourhood_of_one_is_the_identity() -> None:
    logits = random_logits(1, 5, 6, 7)
    with torch.inference_mode():
        assert lively(neighborhood=1)(random(1, 3, 6, 7), logits).equal(logits)
    assert not LRN(5, neighborhood=1, widths=(4,)).head.bias.any()  # pyright: ignore


@pytest.mark.parametrize("neighborhood", [-1, 0, 2])
def test_a_neighbourhood_without_a_centre_is_refused(neighborhood: int) -> None:
    with pytest.raises(ValueError, match=f"odd and positive, not {neighborhood}"):
        LRN(5, neighborhood)


def test_probabilities_can_be_propagated_in_place_of_logits() -> None:
    lrn, image, logits = lively(propagates="probabilities"), random(1, 3, 6, 7), random_logits(1, 5, 6, 7)
    with torch.inference_mode():
        refined = lrn(image, logits)
        lrn.propagates = "logits"
        expected = lrn.coefficients(image, logits)
    torch.testing.assert_close(refined.exp().sum(dim=1), torch.ones(1, 6, 7))
    center = (expected[0, :, 3, 3] * logits.softmax(dim=1)[0, :, 1:6, 1:6].flatten(1)).sum(dim=1)
    torch.testing.assert_close(refined[0, :, 3, 3].exp(), center)


@pytest.mark.parametrize(("name", "value"), [("propagates", "logit"), ("border", "mask")])
def test_what_is_misspelt_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # outside the tests nothing checks types
    with pytest.raises(ValueError, match=f"{name}='{value}' is none of"):
        LRN(5, **{name: value})  # pyright: ignore[reportArgumentType]


def test_a_probability_of_zero_has_a_finite_logarithm() -> None:
    sure = torch.tensor([200.0, 0.0, 0.0, 0.0, 0.0]).view(1, 5, 1, 1).expand(1, 5, 6, 7)
    with torch.inference_mode():
        assert lively(propagates="probabilities")(random(1, 3, 6, 7), sure).isfinite().all()


def test_confidences_count_by_their_differences_only() -> None:
    """A constant added to all classes of all pixels passes through."""
    lrn, image, logits = lively(), random(1, 3, 6, 7), random_logits(1, 5, 6, 7)
    with torch.inference_mode():
        torch.testing.assert_close(lrn(image, logits + 3), lrn(image, logits) + 3)


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    lrn, images, logits = lively(), random(2, 3, 6, 7), random_logits(2, 5, 6, 7)
    with torch.inference_mode():
        apart = torch.cat([lrn(images[index : index + 1], logits[index : index + 1]) for index in (0, 1)])
        torch.testing.assert_close(lrn(images, logits), apart, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    lrn = lively().train()
    (answer,) = lrn.supervised(random(2, 3, 6, 7), random_logits(2, 5, 6, 7))
    answer.square().sum().backward()
    assert all(parameter.grad is not None for parameter in lrn.parameters())
    assert all(module.weight.grad.any() for module in lrn.body if isinstance(module, nn.Conv2d))  # pyright: ignore


def test_the_narrow_preset_is_table_1_with_a_tenth_of_its_width() -> None:
    lrn = LRN.narrow(11)
    assert (lrn.widths, lrn.neighborhood) == (NARROW, 7)
    assert sum(parameter.numel() for parameter in lrn.parameters()) == pytest.approx(87_000, abs=500)


# Export


def exportable() -> LRN:
    torch.manual_seed(6)
    lrn = LRN.narrow(5).eval()
    nn.init.normal_(lrn.head.weight, std=0.5)
    return lrn


def image_and_logits(height: int, width: int) -> tuple[Tensor, Tensor]:
    return random(1, 3, height, width), random_logits(1, 5, height, width)


def any_size() -> dict[str, dict[int, torch.export.Dim]]:
    sides = {2: torch.export.Dim("height", max=4096), 3: torch.export.Dim("width", max=4096)}
    return {"image": sides, "logits": sides}


def test_an_exported_lrn_takes_any_size() -> None:
    lrn = exportable()
    program = torch.export.export(lrn, image_and_logits(9, 11), dynamic_shapes=any_size()).module()
    with torch.inference_mode():
        for height, width in EXPORTED_SIZES:
            inputs = image_and_logits(height, width)
            torch.testing.assert_close(program(*inputs), lrn(*inputs), rtol=1e-4, atol=1e-5)


def test_an_lrn_as_an_onnx_file_takes_any_size(tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    lrn = exportable()
    exported = torch.onnx.export(lrn, image_and_logits(9, 11), dynamo=True, dynamic_shapes=any_size(), verbose=False)
    assert exported is not None
    exported.save(tmp_path / "lrn.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "lrn.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for height, width in EXPORTED_SIZES:
        inputs = image_and_logits(height, width)
        (refined,) = session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(refined), lrn(*inputs), rtol=1e-4, atol=1e-5)
