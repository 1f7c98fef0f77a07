"""Refining what another model predicted."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectiseg import SceneParser, cli
from rectiseg.data.images import read_label_map, write_label_map
from rectiseg.inference import Wanted
from rectiseg.jobs import Failure
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import SHIPPED_REFINER, load, save
from rectiseg.models.combine import Cascade
from rectiseg.models.lrn import LRN
from rectiseg.refinement import FileRefiner, plan_refinement, refine, refine_files

SIZE = (6, 7)


def refiner() -> BilateralLRN:
    """Far from the identity."""
    torch.manual_seed(5)
    lrn = BilateralLRN(None, 5, widths=(6, 7)).eval()
    nn.init.normal_(lrn.head.weight, std=0.5)
    return lrn


def scene(batch: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*batch, 3, *SIZE, generator=generator), 3 * torch.randn(*batch, 4, *SIZE, generator=generator)


def test_one_image_and_a_batch_of_it_agree():
    image, logits = scene()
    refined = refine(image, logits, refiner())
    torch.testing.assert_close(refined, refine(image[None], logits[None], refiner())[0])
    torch.testing.assert_close(refined, refiner()(image[None], logits[None])[0])


def test_arrays_are_answered_with_arrays():
    image, logits = scene()
    refined = refine(image.permute(1, 2, 0).numpy(), logits.numpy(), refiner())
    assert isinstance(refined, np.ndarray)
    np.testing.assert_array_equal(refined, refine(image, logits, refiner()))


def test_bytes_are_an_image_too():
    image, logits = scene()
    pixels = (255 * image).round().byte()
    expected = refine(pixels.float() / 255, logits, refiner())
    assert torch.equal(refine(pixels, logits, refiner()), expected)
    np.testing.assert_array_equal(refine(pixels.permute(1, 2, 0).numpy(), logits.numpy(), refiner()), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_answer_is_of_the_logits_type(dtype: torch.dtype):
    image, logits = scene()
    assert refine(image, logits.to(dtype), refiner()).dtype == dtype


def test_smaller_logits_are_answered_at_the_image_s_size():
    image, logits = scene()
    assert refine(image, logits[:, ::2, ::2], refiner()).shape == logits.shape


def test_no_gradient_is_kept():
    image, logits = scene()
    assert not refine(image, logits.requires_grad_(), refiner()).requires_grad


def test_without_a_refiner_the_shipped_lrn_for_any_classes_is_taken():
    image, logits = scene((1,))
    lrn = load(SHIPPED_REFINER)
    assert isinstance(lrn, BilateralLRN)
    torch.testing.assert_close(refine(image, logits), lrn(image, logits))


def test_the_shipped_refiner_is_read_once(monkeypatch: pytest.MonkeyPatch):
    image, logits = scene()
    first = refine(image, logits)
    monkeypatch.setattr("rectiseg.refinement.load_refiner", None)
    assert torch.equal(refine(image, logits), first)


def test_the_shipped_refiner_works_where_the_logits_lie():
    image, logits = scene()
    assert refine(image, logits.to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("image", "logits", "sentence"),
    [
        (torch.rand(3, 6, 7), torch.rand(2, 4, 6, 7), "batch"),
        (torch.rand(2, 3, 6, 7), torch.rand(3, 4, 6, 7), "2 images and logits of 3"),
        (torch.rand(6, 7, 3), torch.rand(4, 6, 7), "tensors are"),
        (255 * torch.rand(3, 6, 7), torch.rand(4, 6, 7), "0..255"),
        (torch.rand(3, 6, 7), torch.ones(4, 6, 7, dtype=torch.int64), "floating point"),
        (torch.rand(3, 6, 7), torch.rand(4, 7, 3), "another shape"),
    ],
)
def test_what_does_not_fit_is_refused(image: Tensor, logits: Tensor, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        refine(image, logits, refiner())


def test_any_function_is_a_front():
    image, logits = scene((1,))
    parser = SceneParser(lambda _: logits, refiner())
    assert torch.equal(parser(image), refiner()(image, logits))


# --- files


@pytest.fixture
def predictions(photos: Path, tmp_path: Path) -> Path:
    """Of photos/1.png, may/2.jpg and may/3.png: logits, probabilities of half the size, and a label map."""
    folder = tmp_path / "predictions"
    (folder / "may").mkdir(parents=True)
    _, logits = scene()
    np.save(folder / "1.npy", logits.numpy())
    np.savez(folder / "may" / "2.npz", logits[:, ::2, ::2].softmax(dim=0).numpy())
    write_label_map(folder / "may" / "3.png", logits.argmax(dim=0).numpy())
    return folder


def test_files_of_a_tree_are_matched_by_place_and_stem(photos: Path, predictions: Path, tmp_path: Path):
    (predictions / "may" / "4.npy").touch()
    (predictions / "1.npy").rename(predictions / "5.npy")
    jobs = plan_refinement(photos, predictions, tmp_path / "out")
    assert [job.image.name for job in jobs if not isinstance(job, Failure)] == ["2.jpg", "3.png"]
    sentences = [job.sentence for job in jobs if isinstance(job, Failure)]
    assert sentences == [
        f"{photos / '1.png'}: no prediction of this name in {predictions}",
        f"{predictions / '5.npy'}: no image of this name in {photos}",
        f"{predictions / 'may' / '4.npy'}: no image of this name in {photos}",
    ]


def test_one_image_takes_one_prediction_or_its_own_of_a_folder(photos: Path, predictions: Path, tmp_path: Path):
    (alone,) = plan_refinement(photos / "1.png", predictions / "may" / "3.png", tmp_path / "out")
    (found,) = plan_refinement(photos / "1.png", predictions, tmp_path / "out")
    assert not isinstance(alone, Failure)
    assert not isinstance(found, Failure)


@pytest.mark.parametrize(
    ("images", "predicted", "output", "sentence"),
    [
        ("photos", "predictions/1.npy", "out", "name the folder of all"),
        ("photos", "nowhere", "out", "no such file or folder"),
        ("photos/may", "photos", "out", "no prediction has the name"),
        ("photos", "predictions", "predictions", "which the result would replace"),
    ],
)
def test_plans_that_cannot_be_are_refused(
    images: str, predicted: str, output: str, sentence: str, photos: Path, predictions: Path, tmp_path: Path
):
    with pytest.raises(ValueError, match=sentence):
        plan_refinement(tmp_path / images, tmp_path / predicted, tmp_path / output)


def test_files_are_refined_as_tensors_are(photos: Path, predictions: Path, tmp_path: Path):
    answer = FileRefiner(refiner())
    assert refine_files(answer, plan_refinement(photos, predictions, tmp_path / "out")) == []
    red = torch.zeros(3, *SIZE)
    red[0, :3] = red[2, 3:] = 1
    expected = refine(red, scene()[1], refiner()).argmax(dim=0)
    np.testing.assert_array_equal(read_label_map(tmp_path / "out" / "1.png"), expected)
    assert dict(answer.found) == {"logits": 1, "probabilities": 1, "labels": 1}
    assert answer.changed > 0


def test_the_identity_changes_nothing(photos: Path, predictions: Path, tmp_path: Path):
    answer = FileRefiner(Cascade())
    refine_files(answer, plan_refinement(photos, predictions, tmp_path / "out"))
    np.testing.assert_array_equal(
        read_label_map(tmp_path / "out" / "may" / "3.png"), read_label_map(predictions / "may" / "3.png")
    )
    assert answer.changed == 0


def test_a_bad_prediction_is_named_and_the_others_are_done(photos: Path, predictions: Path, tmp_path: Path):
    (predictions / "1.npy").write_bytes(b"no array")
    failures = refine_files(FileRefiner(refiner()), plan_refinement(photos, predictions, tmp_path / "out"))
    (sentence,) = [failure.sentence for failure in failures]
    assert sentence.startswith(f"{photos / '1.png'}: {predictions / '1.npy'}: cannot be read")
    assert (tmp_path / "out" / "may" / "2.png").exists()
    assert not (tmp_path / "out" / "1.png").exists()


def test_a_refiner_of_other_classes_names_the_prediction(photos: Path, predictions: Path, tmp_path: Path):
    answer = FileRefiner(LRN(9, 3, widths=(4,)).eval())
    failures = refine_files(answer, plan_refinement(photos, predictions, tmp_path / "out"))
    assert "4 confidence maps for 9 classes" in failures[0].sentence


def test_more_classes_than_a_byte_holds_are_written(photos: Path, tmp_path: Path):
    logits = torch.zeros(300, *SIZE)
    logits[299, :, 3:] = 9
    np.save(tmp_path / "1.npy", logits.numpy())
    jobs = plan_refinement(photos / "1.png", tmp_path / "1.npy", tmp_path / "out")
    assert refine_files(FileRefiner(Cascade()), jobs, wanted=Wanted(overlay=True)) == []
    assert read_label_map(tmp_path / "out" / "1.png").max() == 299


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rectiseg", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return int(exit.value.code or 0)


def test_the_command_says_what_it_read_and_changed(
    photos: Path, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    save(refiner(), tmp_path / "refiner.safetensors")
    arguments = (photos, predictions, "-o", tmp_path / "out", "--refiner", tmp_path / "refiner.safetensors", "--panel")
    assert status_of(monkeypatch, "refine", *arguments) == 0
    said = capsys.readouterr().out
    assert "read 1 as logits, 1 as probabilities, 1 as labels;" in said
    assert (tmp_path / "out" / "1_panel.png").exists()
    (predictions / "1.npy").unlink()
    assert status_of(monkeypatch, "refine", *arguments) == 1
    assert "1.png: no prediction of this name" in capsys.readouterr().err


def test_classes_name_the_labels(photos: Path, predictions: Path, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "classes.json").write_text('[{"name": "sky", "color": [1, 2, 3]}]')
    arguments = (photos, predictions, "-o", tmp_path / "out", "--classes", tmp_path / "classes.json")
    save(refiner(), tmp_path / "refiner.safetensors")
    arguments += ("--refiner", tmp_path / "refiner.safetensors")
    assert status_of(monkeypatch, "refine", *arguments) == 1
    assert "4 confidence maps for 1 classes" in capsys.readouterr().err


def test_a_refiner_that_was_not_kept_returns_its_input_bit_for_bit(tmp_path: Path):
    save(Cascade(), tmp_path / "refiner.safetensors")
    image, logits = scene((2,))
    assert torch.equal(refine(image, logits, load(tmp_path / "refiner.safetensors")), logits)
