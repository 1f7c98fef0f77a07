"""What a batch reads and where its results go, without a cluster: the worker is called in this process."""

import sys
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from networks import TinyEncoder
from rectiseg.batch.items import Item, claim, plan
from rectiseg.batch.manifest import Record, counted, read, remaining
from rectiseg.batch.pool import cluster
from rectiseg.batch.worker import Task, Worker, predict_together
from rectiseg.commands.batch import batch
from rectiseg.data.images import read_image, read_label_map, write_label_map
from rectiseg.inference import Wanted, predict
from rectiseg.jobs import Job
from rectiseg.models.checkpoint import fingerprint, load, save
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.lrn import LRN
from rectiseg.prediction import predict_files
from rectiseg.refinement import FileRefiner, RefineJob, numbered, plan_refinement

CLASSES = ("red", "green", "blue")
PALETTE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)


class Brightest(nn.Module):
    """The class of a pixel is its strongest channel; it remembers what shapes it saw; its memory has a limit."""

    def __init__(self, limit: int = 99):
        super().__init__()
        self.limit = limit
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        if len(image) > self.limit:
            raise torch.OutOfMemoryError("no memory is left")
        self.seen.append(tuple(image.shape))
        return 5 * image


def working(parser: nn.Module, batch_size: int = 1, wanted: Wanted | None = None) -> Worker:
    known = (CLASSES, PALETTE)
    worker = Worker(Task(lambda: parser, "5e55", lambda _: known, wanted or Wanted(), batch_size, len(CLASSES)))
    worker.load()
    return worker


def placed(items: list[Item], output: Path) -> dict[str, str]:
    """The names of the images by their results' paths."""
    return {Path(item.labels).relative_to(output).as_posix(): Path(item.image).name for item in items}


def address(path: Path) -> str:
    """A local file as fsspec reaches remote ones."""
    return f"file://{path}"


def test_a_folder_and_its_address_keep_their_tree(photos: Path, tmp_path: Path):
    expected = {"1.png": "1.png", "may/2.png": "2.jpg", "may/3.png": "3.png"}
    for source in (str(photos), address(photos)):
        assert placed(plan(source, str(tmp_path / "out")), tmp_path / "out") == expected


def test_a_glob_keeps_the_tree_below_its_first_wildcard(photos: Path, tmp_path: Path):
    expected = {"may/2.png": "2.jpg", "may/3.png": "3.png"}
    for source in (f"{photos}/m*/*", address(photos / "m*" / "*")):
        assert placed(plan(source, str(tmp_path / "out")), tmp_path / "out") == expected


def test_a_folder_may_have_brackets_in_its_name(photos: Path, tmp_path: Path):
    folder = photos.rename(photos.with_name("drive [may]"))
    assert len(placed(plan(str(folder), str(tmp_path / "out")), tmp_path / "out")) == 3


def test_a_list_keeps_the_paths_that_it_names(photos: Path, tmp_path: Path):
    lines = tmp_path / "photos.txt"
    lines.write_text(f"photos/1.png\n\n{photos}/may/2.jpg\n{address(photos)}/may/3.png\n")
    below = photos.as_posix().lstrip("/")
    items = plan(str(lines), str(tmp_path / "out"))
    assert list(placed(items, tmp_path / "out")) == ["photos/1.png", f"{below}/may/2.png", f"{below}/may/3.png"]
    assert items[0].image == str(photos / "1.png")


@pytest.mark.parametrize(
    ("source", "output", "sentence"),
    [
        ("photos", "photos/out", "lies in"),
        ("photos/may/*", "photos/may", "among the results"),
        ("photos/june/*", "out", "no images"),
        ("photos.txt", "out", "no such list"),
        ("away.txt", "out", "leads out of the results' folder"),
        ("twins", "out", "both would be written to"),
        ("nowhere://photos", "out", "cannot be reached"),
    ],
)
def test_wrong_use_is_refused_by_name(source: str, output: str, sentence: str, photos: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "away.txt").write_text("photos/../../1.png\n")
    (tmp_path / "twins").mkdir()
    for name in ("a.png", "a_overlay.png"):
        Image.open(photos / "1.png").save(tmp_path / "twins" / name)
    with pytest.raises(ValueError, match=sentence):
        plan(source, output)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """predictions/1_probabilities.npy and 1.png, may/2.npz, may/3.png, of a photo of each place."""
    folder = tmp_path / "predictions"
    (folder / "may").mkdir(parents=True)
    maps = np.random.default_rng(0).normal(size=(3, 6, 7)).astype(np.float32)
    np.save(folder / "1_probabilities.npy", maps)
    np.savez(folder / "may" / "2.npz", maps)
    for name in ("1.png", "may/3.png"):
        write_label_map(folder / name, maps.argmax(0))
    return folder


def test_images_get_the_predictions_that_refine_gives_them(photos: Path, predictions: Path, tmp_path: Path):
    jobs = plan_refinement(photos, predictions, tmp_path / "out")
    expected = [str(job.prediction) for job in jobs if isinstance(job, RefineJob)]
    items = plan(str(photos), str(tmp_path / "out"), str(predictions))
    assert len(expected) == 3
    assert [item.prediction for item in items] == expected
    away = plan(str(photos), str(tmp_path / "out"), address(predictions))
    assert [item.prediction for item in away] == [address(Path(name)) for name in expected]


def test_two_predictions_of_an_image_and_none_of_any_are_refused(photos: Path, predictions: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="no file there has the path of an image"):
        plan(str(photos), str(tmp_path / "out"), str(predictions / "may"))
    (predictions / "1.npz").touch()
    with pytest.raises(ValueError, match=r"1\.npz.*: two predictions of one image"):
        plan(str(photos), str(tmp_path / "out"), str(predictions))


def test_what_is_remote_is_refined_too_and_named_by_its_place(photos: Path, predictions: Path, tmp_path: Path):
    np.save(predictions / "1_probabilities.npy", np.zeros((3, 2, 9), np.float32))
    items = plan(address(photos), address(tmp_path / "out"), address(predictions))
    worker = Worker(Task(lambda: FileRefiner(Cascade()), "5e55", numbered, Wanted(), batch_size=1, num_classes=0))
    worker.load()
    misshapen, *good = worker.do(items)
    assert str(misshapen.error).startswith(f"{items[0].image}: {items[0].prediction}: maps of 9x2")
    assert [record.error for record in good] == [None, None]
    for name in ("may/2", "may/3"):
        assert (tmp_path / "out" / f"{name}.png").exists()


def test_what_only_a_parser_can_do_is_refused_with_predictions():
    with pytest.raises(ValueError, match="leave them out with --predictions"):
        batch("photos", "out", predictions="predictions", flip=True)


def test_a_model_may_be_named_as_on_the_hub(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = tmp_path / "cache" / "model.safetensors"
    saved.parent.mkdir()
    save(SceneParser(Front(EfficientNetLite(0), 3), LRN.narrow(3), CLASSES), saved)
    monkeypatch.setattr("rectiseg.models.checkpoint.downloaded", lambda name: saved)
    seen = []
    monkeypatch.setattr("rectiseg.commands.batch.done", lambda *given, **_: seen.append(given[3]) or 0)
    assert batch(str(photos), str(tmp_path / "out"), model=Path("somebody/model")) == 0
    assert seen[0].model == fingerprint(load(saved))
    assert seen[0].load.args[0] == saved


def test_without_ray_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'rectiseg\[ray\]'"), cluster(None):
        pass


def test_results_of_other_options_and_of_unknown_ones_are_not_mixed(tmp_path: Path):
    output = str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".batch.json.part").touch()  # of a command that was killed there
    assert claim(output, {"model": "a"}) == set()
    assert claim(output, {"model": "a"}) == {f"{output}/batch.json"}
    with pytest.raises(ValueError, match="holds results of other settings: model, flip; choose another folder"):
        claim(output, {"model": "b", "flip": True})
    (tmp_path / "1.png").touch()
    with pytest.raises(ValueError, match=r"no batch\.json"):
        claim(str(tmp_path), {"model": "a"})


def test_results_go_to_remote_places_whole(photos: Path, tmp_path: Path):
    items = plan(address(photos), address(tmp_path / "out"))
    records = working(Brightest(), wanted=Wanted(overlay=True)).do(items)
    assert [(record.size, record.error) for record in records] == [((7, 6), None)] * 3
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    expected = [f"{name}{kind}.png" for name in ("1", "may/2", "may/3") for kind in ("", "_overlay")]
    assert written == expected
    np.testing.assert_array_equal(read_label_map(tmp_path / "out" / "1.png"), np.repeat([[0], [2]], 3, 0).repeat(7, 1))


def test_what_cannot_be_fetched_or_decoded_is_named_by_its_place(photos: Path, tmp_path: Path):
    (photos / "1.png").write_bytes(b"not a picture")
    items = [
        *plan(address(photos), address(tmp_path / "out")),
        Item(address(photos / "4.png"), address(tmp_path / "4")),
    ]
    *records, missing = working(Brightest()).do(items)
    assert [record.error is None for record in records] == [False, True, True]
    assert str(records[0].error).startswith(f"{items[0].image}: empty, broken")
    assert str(missing.error).startswith(f"{items[3].image}: cannot be fetched")


def test_a_place_that_cannot_be_written_ends_the_work_with_a_sentence(photos: Path, tmp_path: Path):
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match=r"out/1\.png: cannot be written \("):
        working(Brightest()).do(plan(address(photos), address(tmp_path / "out")))
    with pytest.raises(ValueError, match=r"out/1\.png: cannot be written \("):
        working(Brightest()).do(plan(str(photos), str(tmp_path / "out")))


def sizes(folder: Path, *shapes: tuple[int, int]) -> list[Item]:
    folder.mkdir()
    for number, (width, height) in enumerate(shapes):
        Image.new("RGB", (width, height), (number, 200, 0)).save(folder / f"{number}.png")
    return plan(str(folder), f"{folder}_out")


def test_images_of_equal_size_pass_together_as_many_as_are_wished(tmp_path: Path):
    items = sizes(tmp_path / "mixed", (7, 5), (3, 4), (7, 5), (7, 5))
    parser = Brightest()
    records = working(parser, batch_size=2).do(items)
    assert parser.seen == [(2, 3, 5, 7), (1, 3, 4, 3), (1, 3, 5, 7)]
    assert [record.size for record in records] == [(7, 5), (3, 4), (7, 5), (7, 5)]


def test_a_batch_s_answers_are_those_of_its_images_but_for_rounding():
    """A convolution adds in another order for other batches; a label changes where two classes are as likely."""
    torch.manual_seed(0)
    parser = SceneParser(Front(EfficientNetLite(0), 5), Cascade()).eval()
    images = list(torch.rand(4, 3, 65, 97))
    together = predict_together(parser, images, confidences=True)
    for image, found in zip(images, together, strict=True):
        alone = predict(parser, image)
        assert alone.logits is not None
        assert found.logits is not None
        torch.testing.assert_close(found.logits, alone.logits, rtol=1e-3, atol=1e-4)
        assert (found.labels != alone.labels).mean() <= 1e-3


def test_what_does_not_fit_in_memory_together_is_parsed_one_by_one(tmp_path: Path):
    items = sizes(tmp_path / "equal", (7, 5), (7, 5))
    parser = Brightest(limit=1)
    assert [record.error for record in working(parser, batch_size=2).do(items)] == [None, None]
    assert parser.seen == [(1, 3, 5, 7)] * 2


@pytest.mark.parametrize("batch_size", [1, 2])
def test_no_more_images_are_held_than_pass_together(batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    items = sizes(tmp_path / "mixed", (7, 5), (3, 4), (7, 5), (7, 5), (3, 4))
    held, most = WeakSet[Tensor](), []

    def watched(path: Path) -> Tensor:
        image = read_image(path)
        held.add(image)
        most.append(len(held))
        return image

    monkeypatch.setattr("rectiseg.batch.worker.read_image", watched)
    assert [record.error for record in working(Brightest(), batch_size).do(items)] == [None] * 5
    assert len(most) == 5
    assert max(most) <= batch_size + 1  # the last answer may still be written


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_image_that_cannot_be_held_in_memory_is_named_and_the_others_are_done(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    items = sizes(tmp_path / "equal", (7, 5), (7, 5), (7, 5))

    def hungry(path: Path) -> Tensor:
        if path.name == "1.png":
            raise error
        return read_image(path)

    monkeypatch.setattr("rectiseg.batch.worker.read_image", hungry)
    first, second, third = working(Brightest(), batch_size=3).do(items)
    assert (first.error, third.error) == (None, None)
    assert second.error == f"{items[1].image}: does not fit in memory; cut it into smaller images"


def test_labels_that_cannot_be_compared_for_lack_of_memory_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (item,) = sizes(tmp_path / "one", (7, 5))
    write_label_map(tmp_path / "true.png", np.zeros((5, 7), np.uint8))

    def hungry(*_: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr("rectiseg.batch.worker.confusion", hungry)
    (record,) = working(Brightest()).do([replace(item, truth=str(tmp_path / "true.png"))])
    assert record.error == f"{item.image}: {tmp_path}/true.png: does not fit in memory"


def test_a_label_map_of_more_pixels_than_pillow_opens_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (item,) = sizes(tmp_path / "one", (90, 70))
    work = working(Brightest())
    monkeypatch.setattr("rectiseg.batch.worker.read_image", lambda _: torch.rand(3, 70, 90))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 70 // 2 - 1)
    monkeypatch.setattr("rectiseg.prediction.too_large", lambda *_: False)
    (record,) = work.do([item])
    assert (record.size, record.error) == ((90, 70), None)


def test_a_label_map_without_good_true_labels_is_written_wherever_its_place(photos: Path, tmp_path: Path):
    (tmp_path / "truth" / "may").mkdir(parents=True)
    write_label_map(tmp_path / "truth" / "1.png", np.zeros((2, 3), np.uint8))
    here, away = (plan(str(photos), place, truth=str(tmp_path / "truth"))[0] for place in placed_at(tmp_path))
    for item in (here, away):
        (record,) = working(Brightest()).do([item])
        assert str(record.error).endswith("truth/1.png: 3x2, for an image of 7x6")
    assert (tmp_path / "here" / "1.png").read_bytes() == (tmp_path / "away" / "1.png").read_bytes()


def placed_at(folder: Path) -> tuple[str, str]:
    """A local output and one that fsspec reaches."""
    return str(folder / "here"), address(folder / "away")


def test_what_predict_parses_in_tiles_is_parsed_so_and_what_needs_it_whole_is_refused(tmp_path: Path, monkeypatch):
    (small,) = sizes(tmp_path / "small", (50, 40))
    (large,) = sizes(tmp_path / "large", (90, 70))
    monkeypatch.setattr("rectiseg.prediction.WHOLE_PIXELS", 90 * 70 - 1)
    monkeypatch.setattr("rectiseg.prediction.SIZE", 64)
    torch.manual_seed(0)
    front, seen = Front(TinyEncoder(), 3), []
    parser = SceneParser(front, Cascade()).eval()
    front.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    assert [record.size for record in working(parser, batch_size=2).do([small, large])] == [(50, 40), (90, 70)]
    assert seen[0] == (40, 50)
    assert len(seen) == 1 + 4
    said = Path(large.labels).read_bytes()
    assert predict_files(parser, [Job(Path(large.image), tmp_path / "predicted.png")], CLASSES, PALETTE) == []
    assert (tmp_path / "predicted.png").read_bytes() == said
    (record,) = working(parser, wanted=Wanted(probabilities=True)).do([large])
    assert "is parsed in tiles, which give no probabilities" in str(record.error)


def test_the_manifest_ends_up_with_a_line_for_every_result(tmp_path: Path):
    lines = tmp_path / "manifest.jsonl"
    items = [Item(f"/{name}.jpg", f"/{name}.png") for name in "abcd"]
    done = Record("/a.jpg", "/a.png", (7, 5), 0.5, "5e55")
    failed = Record("/b.jpg", "/b.png", None, None, "5e55", "/b.jpg: broken")
    lines.write_text(done.to_json() + failed.to_json() + done.to_json()[:20])
    todo = remaining(lines, items, "", {"/a.png", "/c.png"}, "5e55")
    assert todo == [items[1], items[3]]
    assert [(record.output, record.seconds) for record in read(lines)] == [("/a.png", 0.5), ("/c.png", None)]


def test_lines_of_another_output_stay(tmp_path: Path):
    lines = tmp_path / "manifest.jsonl"
    other = Record("/a.jpg", "/other/a.png", (7, 5), 0.5, "5e55")
    lines.write_text(other.to_json() + Record("/a.jpg", "/out/a.png", (7, 5), 0.5, "5e55").to_json())
    item = Item("/a.jpg", "/out/a.png")
    assert remaining(lines, [item], "/out", set(), "5e55") == [item]
    assert [record.output for record in read(lines)] == ["/other/a.png"]


def test_a_file_that_is_no_manifest_is_not_replaced(tmp_path: Path):
    for text in ("my notes\n", '{"input": "a.png"}\n', "[]\n"):
        (tmp_path / "notes.txt").write_text(text)
        with pytest.raises(ValueError, match="holds other lines than a manifest's"):
            remaining(tmp_path / "notes.txt", [], "", set(), "5e55")
        assert (tmp_path / "notes.txt").read_text() == text


def test_images_are_measured_against_their_true_labels(photos: Path, tmp_path: Path):
    """Red is 0 and blue 2; a pixel is ignored, one is wrong, and of two images the labels are none."""
    true = np.repeat([[0], [2]], 3, 0).repeat(7, 1)
    true[0, 0], true[5, 6] = 255, 1
    (tmp_path / "truth" / "may").mkdir(parents=True)
    write_label_map(tmp_path / "truth" / "1.png", true)
    write_label_map(tmp_path / "truth" / "may" / "2.png", true[:3])
    write_label_map(tmp_path / "truth" / "may" / "3.png", true + 9 * (true == 1))
    items = plan(str(photos), str(tmp_path / "out"), truth=str(tmp_path / "truth"))
    worker = working(Brightest())
    good, *bad = worker.do(items)
    assert good.counts == [[0, 0, 20], [1, 2, 1], [2, 2, 20]]
    assert str(bad[0].error).endswith("truth/may/2.png: 7x3, for an image of 7x6")
    assert str(bad[1].error).endswith("may/3.png: label 10 is outside 0..2")


def test_an_image_is_counted_once_however_often_the_run_was_killed(tmp_path: Path):
    """A label map without its counts is made again; of lines of the same image the last one counts."""
    lines = tmp_path / "manifest.jsonl"
    items = [Item(f"/{name}.jpg", f"/{name}.png", truth=f"/true/{name}.png") for name in "abc"]
    records = [Record(f"/{name}.jpg", f"/{name}.png", (1, 3), 0.5, "5e55", counts=[[0, 1, 3]]) for name in "aab"]
    old = Record("/z.jpg", "/z.png", (1, 3), 0.5, "5e55", counts=[[1, 1, 3]])
    lines.write_text("".join(record.to_json() for record in [*records, old]))
    assert remaining(lines, items, "", {"/a.png", "/b.png", "/c.png", "/z.png"}, "5e55") == [items[2]]
    assert len(read(lines)) == 3
    assert counted(lines, items, 2).tolist() == [[0, 6], [0, 0]]
