"""Where refiners start and what they learn from: given weights, another parser's confidences, fronts of folds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rectiseg.data.confidences import Confidences, View, store_confidences
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import load, load_refiner, read_training, save
from rectiseg.models.combine import Cascade
from rectiseg.models.grn import GRN
from rectiseg.models.light_encoder import LightEncoder
from tiny_stage import Doubtful
from tiny_training import smallest


def test_a_grn_goes_on_from_given_weights_alone_or_in_a_parser(tmp_path: Path):
    start = smallest(tmp_path / "start")
    start.run()
    for name in ("grn", "parser"):
        made = smallest(tmp_path / name)
        made.grn_weights = tmp_path / "start" / f"{name}.safetensors"
        grn_settings = replace(made.recipe.grn, phases=((1, 0.0),))
        made.recipe = replace(made.recipe, iterations=1, full_backpropagation=True, grn=grn_settings)
        made.run(("grn",))
        grn = load(tmp_path / name / "grn.safetensors")
        assert grn.iterations == 1
        assert grn.full_backpropagation
        for key, value in start.grn().named_parameters():
            assert torch.equal(grn.get_parameter(key), value), key  # a rate of nothing changes nothing
    made.grn_weights = tmp_path / "start" / "grn.safetensors"
    other = load(made.grn_weights)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save(other, made.grn_weights)
    with pytest.raises(ValueError, match="trained with other settings"):
        made.run(("grn",))
    with pytest.raises(ValueError, match="none of the stages context trains a GRN from it"):
        made.run(("context",))
    save(GRN.light(made.num_classes), tmp_path / "light.safetensors")
    made.grn_weights = tmp_path / "light.safetensors"
    with pytest.raises(ValueError, match=r"light\.safetensors: no GRN is in here, or a light one"):
        made.run(("grn",))
    made.grn_weights = tmp_path / "start" / "lrn.safetensors"
    with pytest.raises(ValueError, match="no GRN is in here"):
        made.started_grn()


def test_a_further_stage_asks_for_nothing_of_a_grn_that_went_on_from_others_weights(tmp_path: Path):
    made = smallest(tmp_path / "whole")
    made.run()
    on = smallest(tmp_path / "on")
    on.grn_weights = tmp_path / "whole" / "grn.safetensors"
    on.run()
    smallest(tmp_path / "on").run(("context",))
    assert (tmp_path / "on" / "context.safetensors").exists()


def test_a_recipe_ends_its_parser_with_the_lrn_that_it_names(tmp_path: Path):
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, last="bilateral")
    made.run()
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == {*("front", "grn", "bilateral", "parser")}
    refiner = load_refiner(tmp_path / "parser.safetensors")
    assert [type(part) for part in refiner.refiners] == [GRN, BilateralLRN]
    made.recipe = replace(made.recipe, last="bilateral_light")
    made.run()
    refiner = load_refiner(tmp_path / "parser.safetensors")
    assert isinstance(refiner, Cascade)
    first, last = refiner.refiners
    assert isinstance(first, GRN)
    assert isinstance(first.encoder, LightEncoder)
    assert isinstance(last, BilateralLRN)
    smallest(tmp_path).run(("lrn",))  # what it stands on is valid for recipes that end otherwise


def test_refiners_learn_after_any_parser_whose_confidences_are_stored(tmp_path: Path):
    made = smallest(tmp_path / "refiners")
    for split, views in (("train", [View(), View(flip=True)]), ("val", [View()])):
        store_confidences(Doubtful(), made.datasets[split], tmp_path / "stored" / split, views, "a doubtful parser")
    made.confidences = tmp_path / "stored"
    with pytest.raises(ValueError, match="starts GRN from its own front's encoder, and stored confidences have none"):
        made.run(("grn",))
    made.recipe = replace(made.recipe, grn_starts_from="encoder")
    made.run()
    names = {path.name for path in (tmp_path / "refiners").glob("*.safetensors")}
    assert names == {"lrn_alone.safetensors", "grn.safetensors", "lrn.safetensors", "refiner.safetensors"}
    refiner = load_refiner(tmp_path / "refiners" / "refiner.safetensors")
    sample = made.datasets["val"][0]
    image, logits = sample.image[None], Doubtful()(sample.image[None])
    stored = Confidences(made.datasets["val"], tmp_path / "refiners" / "confidences" / "grn" / "val")
    torch.testing.assert_close(
        refiner.refiners[0](image, logits)[0], stored.read(0, View()).logits, rtol=1e-2, atol=1e-2
    )
    assert refiner(image, logits).shape == logits.shape
    made.run(("bilateral_light",))
    light, last = (load(tmp_path / "refiners" / f"{stage}.safetensors") for stage in ("light", "bilateral_light"))
    assert last(image, light(image, logits)).shape == logits.shape
    about = tmp_path / "stored" / "train" / "store.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"source": "another parser"}))
    with pytest.raises(ValueError, match="trained with other settings"):
        made.run(("lrn_alone",))


def test_fronts_of_two_folds_cannot_take_each_others_place(tmp_path: Path):
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, folds=2)
    for fold in range(2):
        made.front_without(fold)
    shutil.move(tmp_path / "front_fold0.safetensors", tmp_path / "kept.safetensors")
    about = read_training(tmp_path / "front_fold1.safetensors")
    renamed = about | {"front_fold0_key": about["front_fold1_key"]}
    save(load(tmp_path / "front_fold1.safetensors"), tmp_path / "front_fold0.safetensors", renamed)
    with pytest.raises(ValueError, match="trained with other settings"):
        made.front_without(0)
