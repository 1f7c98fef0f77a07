"""Predictions of other models, read from their files."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rectiseg.data.images import write_label_map
from rectiseg.data.predictions import predictions_below, read_prediction

SIZE = (6, 7)
LOGITS = np.random.default_rng(0).normal(size=(4, *SIZE)).astype(np.float32) * 3
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=0)
LABELS = LOGITS.argmax(axis=0).astype(np.uint8)


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path.with_suffix(".npy"), array)
    return path.with_suffix(".npy")


def npz(path: Path, array: np.ndarray) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), array)
    return path.with_suffix(".npz")


def safetensors(path: Path, array: np.ndarray) -> Path:
    save_file({"anything": torch.from_numpy(array)}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.mark.parametrize("write", [npy, npz, safetensors])
def test_logits_are_read_as_they_are(write: Callable, tmp_path: Path):
    prediction = read_prediction(write(tmp_path / "a", LOGITS), SIZE)
    assert prediction.values == "logits"
    torch.testing.assert_close(prediction.logits, torch.from_numpy(LOGITS))


@pytest.mark.parametrize(
    ("array", "tolerance"),
    [
        (PROBABILITIES, 1e-6),
        (PROBABILITIES.astype(np.float16), 1e-3),
        ((PROBABILITIES * 255).round().astype(np.uint8), 1e-2),
        ((PROBABILITIES * 65535).astype(np.uint16), 1e-4),
        (PROBABILITIES - 1e-7, 1e-6),
    ],
    ids=["float32", "float16", "8 bits", "16 bits, cut", "a little below 0"],
)
def test_probabilities_come_back_through_the_softmax(array: np.ndarray, tolerance: float, tmp_path: Path):
    prediction = read_prediction(npy(tmp_path / "a", array), SIZE)
    assert prediction.values == "probabilities"
    np.testing.assert_allclose(prediction.logits.softmax(dim=0), PROBABILITIES, atol=tolerance)


def test_a_batch_of_one_is_one_prediction(tmp_path: Path):
    assert read_prediction(npy(tmp_path / "a", LOGITS[None]), SIZE).logits.shape == LOGITS.shape


def test_of_several_arrays_the_one_called_logits_is_read(tmp_path: Path):
    np.savez(tmp_path / "a.npz", logits=LOGITS, features=np.zeros((9, 9)))
    torch.testing.assert_close(read_prediction(tmp_path / "a.npz", SIZE).logits, torch.from_numpy(LOGITS))


def test_maps_of_fewer_cells_are_brought_to_the_image_s_size(tmp_path: Path):
    coarse = np.stack([np.full((2, 2), 2.0), np.array([[0.0, 4.0], [0.0, 4.0]])]).astype(np.float32)
    labels = read_prediction(npy(tmp_path / "a", coarse), SIZE).logits.argmax(dim=0)
    assert labels.tolist() == [[0, 0, 0, 0, 1, 1, 1]] * 6


def test_coarse_probabilities_still_add_up_to_1(tmp_path: Path):
    logits = read_prediction(npy(tmp_path / "a", PROBABILITIES[:, ::2, ::2]), SIZE).logits
    torch.testing.assert_close(logits.exp().sum(dim=0), torch.ones(SIZE))


def test_bfloat16_is_read(tmp_path: Path):
    save_file({"logits": torch.from_numpy(LOGITS).bfloat16()}, tmp_path / "a.safetensors")
    assert read_prediction(tmp_path / "a.safetensors", SIZE).logits.dtype == torch.float32


def label_png(path: Path) -> Path:
    write_label_map(path.with_suffix(".png"), LABELS)
    return path.with_suffix(".png")


@pytest.mark.parametrize(
    "write", [label_png, lambda path: npy(path, LABELS), lambda path: npy(path, LABELS.astype(int))]
)
def test_a_label_map_stays_the_likeliest_and_becomes_less_sure_at_its_boundaries(write: Callable, tmp_path: Path):
    prediction = read_prediction(write(tmp_path / "a"), SIZE)
    assert prediction.values == "labels"
    np.testing.assert_array_equal(prediction.logits.argmax(dim=0), LABELS)
    flat = read_prediction(npy(tmp_path / "flat", np.ones(SIZE, np.uint8)), SIZE).logits
    assert prediction.logits.amax(dim=0).max() < flat.amax(dim=0).min() < 0


def test_a_label_map_is_of_as_many_classes_as_are_named(tmp_path: Path):
    assert len(read_prediction(npy(tmp_path / "a", LABELS), SIZE, num_classes=9).logits) == 9


def test_where_a_label_map_knows_nothing_all_classes_are_equal(tmp_path: Path):
    labels = np.full(SIZE, 255, np.uint8)
    labels[0, 0] = 2
    logits = read_prediction(npy(tmp_path / "a", labels), SIZE).logits
    torch.testing.assert_close(logits[:, 5, 6].exp(), torch.full((3,), 1 / 3))


def test_a_small_label_map_keeps_its_labels(tmp_path: Path):
    logits = read_prediction(npy(tmp_path / "a", np.array([[0, 1], [2, 0]])), SIZE).logits
    assert logits.argmax(dim=0).tolist() == [[0, 0, 0, 1, 1, 1, 1]] * 3 + [[2, 2, 2, 0, 0, 0, 0]] * 3


def changed(value: float) -> np.ndarray:
    array = LOGITS.copy()
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (changed(np.nan), "NaN"),
        (changed(np.inf), "infinite"),
        (LOGITS[0], "classes, height, width"),
        (LOGITS.transpose(1, 2, 0), "classes last"),
        (LOGITS[:1], "one confidence map only"),
        (LOGITS[:, :3], "another shape"),
        (LABELS[:3], "another shape"),
        (1 / (1 + np.exp(-LOGITS)), "neither logits nor probabilities"),
        ((PROBABILITIES * 100).astype(np.uint8), "not to 255"),
        (LOGITS.astype(np.int32), "floating point"),
        (LOGITS.astype(str), "numbers"),
        (np.zeros((0, 6, 7), np.float32), "classes, height, width"),
        (np.zeros((0, 7), np.uint8), "classes, height, width"),
        (np.full(SIZE, 3), "label 3 is outside 0..2"),
        (LABELS.astype(np.int32) - 1, "label -1 is outside 0"),
    ],
)
def test_what_is_no_prediction_is_refused_in_one_sentence(array: np.ndarray, sentence: str, tmp_path: Path):
    path = npy(tmp_path / "a", array)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_prediction(path, SIZE, num_classes=3 if array.ndim == 2 else None)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_another_number_of_classes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="4 confidence maps for 5 classes"):
        read_prediction(npy(tmp_path / "a", LOGITS), SIZE, num_classes=5)


def test_what_the_values_are_can_be_said(tmp_path: Path):
    path = npy(tmp_path / "a", 1 / (1 + np.exp(-LOGITS)))
    assert read_prediction(path, SIZE, values="logits").values == "logits"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".png"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04 and no more", b"a line of text"])
def test_a_damaged_file_is_refused(content: bytes, suffix: str, tmp_path: Path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be|broken"):
        read_prediction(path, SIZE)


@pytest.mark.parametrize("write", [npy, npz, safetensors])
def test_a_file_cut_anywhere_is_refused(write: Callable, tmp_path: Path):
    path = write(tmp_path / "a", LOGITS)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot be read"):
            read_prediction(path, SIZE)


def negative_side(path: Path) -> Path:
    whole = npy(path, LOGITS).read_bytes()
    path = path.with_suffix(".npy")
    path.write_bytes(whole.replace(b"(4, 6, 7)", b"(4,-6, 7)"))
    return path


def archive_without_arrays(path: Path) -> Path:
    path = path.with_suffix(".npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "a line of text")
    return path


def archive_with_a_password(path: Path) -> Path:
    """By the bit that says so, in both of its headers."""
    path = npz(path, LOGITS)
    whole = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + flags] |= 1
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("write", [negative_side, archive_without_arrays, archive_with_a_password])
def test_a_strange_file_is_refused(write: Callable, tmp_path: Path):
    path = write(tmp_path / "a")
    with pytest.raises(ValueError, match=f"^{path}: cannot be read as arrays"):
        read_prediction(path, SIZE)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_prediction(npy(tmp_path / "a", np.array([[{"a": 1}]])), SIZE)


def test_a_file_without_a_name_that_says_which_array_is_meant_is_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", first=LOGITS, second=LOGITS)
    with pytest.raises(ValueError, match=r"2 arrays \(first, second\)"):
        read_prediction(tmp_path / "a.npz", SIZE)


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.npy \.npz"):
        read_prediction(tmp_path / "a.pkl", SIZE)
    with pytest.raises(ValueError, match="no such file"):
        read_prediction(tmp_path / "b.npy", SIZE)


def test_predictions_are_found_by_their_place_and_stem(tmp_path: Path):
    (tmp_path / "may").mkdir()
    npy(tmp_path / "may" / "a", LOGITS)
    safetensors(tmp_path / "c_probabilities", LOGITS)
    label_png(tmp_path / "c")
    label_png(tmp_path / "d")
    (tmp_path / ".hidden.npy").touch()
    (tmp_path / "notes.txt").touch()
    found = {str(key): path.name for key, path in predictions_below(tmp_path).items()}
    assert found == {"may/a": "a.npy", "c": "c_probabilities.safetensors", "d": "d.png"}


def test_two_predictions_of_one_image_are_refused(tmp_path: Path):
    npy(tmp_path / "a", LOGITS)
    npz(tmp_path / "a", LOGITS)
    with pytest.raises(ValueError, match="two predictions of one image"):
        predictions_below(tmp_path)


def test_values_of_no_size_are_refused(tmp_path: Path):
    """Found by fuzzing: numpy maps such a file by a division by zero, which ends the process."""
    header = b"{'descr': 'V0', 'fortran_order': False, 'shape': (3, 2), }".ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read as arrays \(its values have no size\)"):
        read_prediction(tmp_path / "a.npy")


def test_a_label_that_no_label_map_holds_is_refused(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.full((2, 3), 2**56))
    with pytest.raises(ValueError, match=rf"a\.npy: label {2**56} is outside 0\.\.65535"):
        read_prediction(tmp_path / "a.npy")
