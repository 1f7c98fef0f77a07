"""Stored confidences: what a refiner reads is what the front said."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from networks import TinyEncoder, random, random_logits, tiny_grn
from rectiseg.data import confidences
from rectiseg.data.confidences import Confidences, View, store_confidences, store_refined, view_of
from rectiseg.data.datasets import Sample
from rectiseg.data.transforms import view_image, view_labels
from rectiseg.models.combine import SceneParser
from rectiseg.models.front import Front
from rectiseg.types import Parser

K = 5
VIEWS = (View(), View(flip=True), View(0.75), View(1.25, True))


class Noise:
    """Images of odd, unequal sizes."""

    palette = ((0, 0, 0),) * K

    def __init__(self, count: int = 3, num_classes: int = K, height: int = 19):
        self.count, self.height = count, height
        self.classes = tuple(f"class {index}" for index in range(num_classes))
        self.names = [f"image{index}" for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        image = random(3, self.height, 29 + index, seed=index)
        return Sample(image, (image[0] * 4).long(), self.names[index])


class Calls(nn.Module):
    """A foreign parser: any function of an image; it counts."""

    def __init__(self, num_classes: int = K, fails_at: int = -1):
        super().__init__()
        self.num_classes, self.fails_at, self.count = num_classes, fails_at, 0

    def forward(self, image: Tensor) -> Tensor:
        if self.count == self.fails_at:
            raise KeyboardInterrupt
        self.count += 1
        return random_logits(1, self.num_classes, *image.shape[-2:], seed=int(1e4 * image.mean())) * (1 + image[:, :1])


def tiny_front(learnable_deconvolution: bool = False, aligned: bool = True) -> Front:
    torch.manual_seed(1)
    front = Front(TinyEncoder(), K, aligned=aligned, learnable_deconvolution=learnable_deconvolution).eval()
    nn.init.normal_(front.head.weight)
    return front


@torch.inference_mode()
def store(parser: Parser, folder: Path, data: Noise | None = None, views: Sequence[View] = VIEWS, source: str = "a"):
    store_confidences(parser, data or Noise(), folder, views, source)
    return Confidences(data or Noise(), folder)


def same_as_a_run(stored: Confidences, parser: nn.Module, tolerance: float = 2**-10) -> None:
    for index in range(len(stored)):
        for view in stored.views:
            image, labels, logits, name = stored.read(index, view)
            sample = stored.dataset[index]
            assert name == sample.name
            assert torch.equal(image, view_image(sample.image, *view))
            assert torch.equal(labels, view_labels(sample.labels, *view))
            with torch.inference_mode():
                said = parser(image[None])[0]
            torch.testing.assert_close(logits, said, rtol=0, atol=tolerance * float(said.abs().max()))


def parts_of(path: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(path, framework="pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return {key: (part.get_shape(), part.get_dtype()) for key, part in slices.items()}


def test_coarse_scores_are_kept_and_read_as_the_fronts_own_output(tmp_path: Path):
    front = tiny_front()
    same_as_a_run(store(front, tmp_path), front)
    assert parts_of(tmp_path / "image0.safetensors") == {
        "1": ([K, 3, 4], "F16"),
        "1-flipped": ([K, 3, 4], "F16"),
        "0.75": ([K, 2, 3], "F16"),
        "1.25-flipped": ([K, 3, 5], "F16"),
    }


@torch.inference_mode()
def store_after(refiner: nn.Module, stored: Confidences, folder: Path) -> Confidences:
    store_refined(refiner, stored, folder, stored.views, "b")
    return Confidences(stored.dataset, folder)


@pytest.mark.parametrize("front_is_coarse", [True, False])
@pytest.mark.parametrize("residual_is_coarse", [True, False])
@pytest.mark.parametrize("one_grid", [True, False])
def test_what_a_refiner_makes_of_a_store_is_kept_as_a_run_of_both(
    front_is_coarse: bool, residual_is_coarse: bool, one_grid: bool, tmp_path: Path
):
    front = tiny_front(learnable_deconvolution=not front_is_coarse, aligned=one_grid)
    grn = tiny_grn(K, iterations=2, learnable_deconvolution=not residual_is_coarse).eval()
    refined = store_after(grn, store(front, tmp_path / "front"), tmp_path / "grn")
    same_as_a_run(refined, SceneParser(front, grn), tolerance=2**-7)  # GRN read confidences that had been rounded
    coarse = front_is_coarse and residual_is_coarse and one_grid
    assert parts_of(tmp_path / "grn" / "image2.safetensors")["1"] == ([K, 3, 4] if coarse else [K, 19, 31], "F16")


def test_a_front_with_a_deconvolution_of_its_own_is_kept_at_full_size(tmp_path: Path):
    front = tiny_front(learnable_deconvolution=True)
    same_as_a_run(store(front, tmp_path), front)
    assert parts_of(tmp_path / "image0.safetensors")["1"] == ([K, 19, 29], "F16")


def test_a_foreign_front_is_kept_at_full_size(tmp_path: Path):
    parser = Calls()
    same_as_a_run(store(parser, tmp_path), parser)
    assert parts_of(tmp_path / "image1.safetensors")["0.75"] == ([K, 14, 22], "F16")


def test_a_view_is_a_run_of_the_front_and_no_transformed_map(tmp_path: Path):
    stored = store(tiny_front(), tmp_path)
    straight, flipped = (stored.read(0, view).logits for view in VIEWS[:2])
    assert (straight.flip(-1) - flipped).abs().max() > 0.1


def test_of_many_classes_the_likeliest_eight_are_kept(tmp_path: Path):
    parser, data = Calls(num_classes=40), Noise(1, num_classes=40)
    stored = store(parser, tmp_path, data)
    assert parts_of(tmp_path / "image0.safetensors")["1-classes"] == ([8, 19, 29], "I16")
    image, _, logits, _ = stored.read(0, View())
    said = parser(image[None])[0].log_softmax(dim=0)
    likeliest = said.topk(8, dim=0).indices
    assert torch.equal(logits.argmax(dim=0), likeliest[0])
    kept = (logits.gather(0, likeliest), said.gather(0, likeliest))
    torch.testing.assert_close(*kept, rtol=2**-10, atol=2**-10)
    torch.testing.assert_close(logits.exp().sum(dim=0), torch.ones(19, 29), rtol=0, atol=1e-3)


def test_an_interrupted_store_is_taken_up_and_no_image_is_done_twice(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        store(Calls(fails_at=6), tmp_path)  # in the second image's third view
    first = tmp_path / "image0.safetensors"
    assert {path.name for path in tmp_path.iterdir()} == {"store.json", first.name}
    written, parser = first.stat().st_mtime_ns, Calls()
    same_as_a_run(store(parser, tmp_path), Calls())
    assert parser.count == 2 * len(VIEWS)
    assert first.stat().st_mtime_ns == written


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def disk_is_full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(confidences, "save_file", disk_is_full)
    with pytest.raises(OSError, match="no space"):
        store(Calls(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_several_processes_divide_the_images(tmp_path: Path):
    parsers = [Calls(), Calls()]
    for rank, parser in enumerate(parsers):
        store_confidences(parser, Noise(), tmp_path, VIEWS, "a", share=(rank, 2))
    assert [parser.count for parser in parsers] == [2 * len(VIEWS), len(VIEWS)]
    same_as_a_run(Confidences(Noise(), tmp_path), Calls())


def test_another_models_store_is_refused(tmp_path: Path):
    store(Calls(), tmp_path)
    refusal = f"{tmp_path}: holds confidences of another model or other views; delete it or name another"
    with pytest.raises(ValueError, match=refusal):
        store(Calls(), tmp_path, source="b")
    with pytest.raises(ValueError, match=refusal):
        store(Calls(), tmp_path, views=VIEWS[:2])
    with pytest.raises(ValueError, match=refusal):
        store(tiny_front(), tmp_path)


def test_a_store_of_other_classes_is_refused(tmp_path: Path):
    store(Calls(), tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: these confidences are of other classes"):
        Confidences(Noise(num_classes=4), tmp_path)


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_a_folder_without_a_whole_list_is_no_store(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "store.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{tmp_path}: no store of confidences here"):
        Confidences(Noise(), tmp_path)


@pytest.mark.parametrize("kept", [None, 0, 5, 200, -1])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, kept: int | None):
    stored = store(tiny_front(), tmp_path)
    path = tmp_path / "image1.safetensors"
    whole = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=f"^{path}: no confidences for this view; run `rectiseg confidences` again$"):
        stored.read(1, View())


def test_a_view_that_was_not_stored_is_asked_for(tmp_path: Path):
    stored = store(tiny_front(), tmp_path)
    with pytest.raises(ValueError, match=r"image0.safetensors: no confidences for this view"):
        stored.read(0, View(0.5))


@pytest.mark.parametrize("height", [11, 27])
@pytest.mark.parametrize("parser", [tiny_front(), Calls()], ids=["coarse", "full"])
def test_confidences_of_an_image_of_another_size_are_refused(tmp_path: Path, parser: nn.Module, height: int):
    store(parser, tmp_path)
    with pytest.raises(ValueError, match=rf"image0.safetensors: .* for an image of \[{height}, 29\]"):
        Confidences(Noise(height=height), tmp_path).read(0, View())


def test_confidences_of_too_few_classes_are_refused(tmp_path: Path):
    stored = store(Calls(num_classes=K - 1), tmp_path)
    with pytest.raises(ValueError, match=r"image0.safetensors: 4 confidences a pixel for 5 classes"):
        stored.read(0, View())


def test_a_views_key_names_it():
    assert [view.key for view in VIEWS] == ["1", "1-flipped", "0.75", "1.25-flipped"]
    assert tuple(view_of(view.key) for view in VIEWS) == VIEWS
