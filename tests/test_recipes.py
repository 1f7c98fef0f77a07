"""The recipes: the paper's are section 4.1 number by number, and a name leads to the recipe of that name."""

from dataclasses import replace

import pytest
import torch

from rectiseg.models.lrn import NARROW, TABLE_1
from rectiseg.recipes import (
    RECIPES,
    Recipe,
    ade20k_paper,
    camvid_best,
    camvid_lite,
    camvid_paper,
    cityscapes_paper,
)
from rectiseg.settings import Settings, make_optimizer
from tiny_stage import tiny_lrn

PAPERS = [ade20k_paper(), cityscapes_paper(), camvid_paper()]
of_every_paper_recipe = pytest.mark.parametrize("recipe", PAPERS, ids=[recipe.name for recipe in PAPERS])


def stages(recipe: Recipe) -> dict[str, Settings]:
    return {"front": recipe.front, "grn": recipe.grn, "lrn": recipe.lrn, "context": recipe.context}


@of_every_paper_recipe
def test_the_papers_epochs_and_rates(recipe: Recipe):
    assert recipe.front.phases == ((30, 1e-3), (10, 1e-4))
    assert recipe.grn.phases == ((10, 1e-3), (10, 1e-4))
    assert recipe.lrn.phases == ((20, 1e-4),)


@of_every_paper_recipe
def test_the_papers_rate_is_divided_by_ten_at_once_and_is_constant_otherwise(recipe: Recipe):
    assert [recipe.front.learning_rate(epoch) for epoch in (0, 29.99, 30, 39.99)] == [1e-3, 1e-3, 1e-4, 1e-4]
    assert [recipe.grn.learning_rate(epoch) for epoch in (0, 9.99, 10, 19.99)] == [1e-3, 1e-3, 1e-4, 1e-4]
    assert [recipe.lrn.learning_rate(epoch) for epoch in (0, 19.99)] == [1e-4, 1e-4]
    for name, settings in stages(recipe).items():
        assert (settings.schedule, settings.warmup, settings.head_rate) == ("constant", 0, 1.0), name


@pytest.mark.parametrize(
    ("recipe", "dataset", "side", "scales"),
    [
        (ade20k_paper(), "ade20k", 500, (0.5, 0.75, 1.0, 1.25, 1.5)),
        (cityscapes_paper(), "cityscapes", 700, (0.5, 0.75, 1.0, 1.25)),
    ],
    ids=["ade20k", "cityscapes"],
)
def test_every_stage_sees_the_papers_crops_at_the_scales_of_its_test(
    recipe: Recipe, dataset: str, side: int, scales: tuple[float, ...]
):
    assert recipe.dataset == dataset
    for name, settings in stages(recipe).items():
        assert (settings.crop, settings.scales, settings.jitter) == ((side, side), scales, 0.0), name


@of_every_paper_recipe
def test_the_papers_optimizer_is_plain_sgd(recipe: Recipe):
    for name, settings in stages(recipe).items():
        assert settings.batch == 4, name
        assert settings.clip is None, name
        assert settings.precision == "no", name
        optimizer = make_optimizer(tiny_lrn(), settings)
        assert type(optimizer) is torch.optim.SGD, name
        for group in optimizer.param_groups:
            assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False), name
            assert (group["dampening"], group["rate_factor"]) == (0, 1.0), name


@of_every_paper_recipe
def test_batch_norm_is_frozen_where_it_was_pretrained_and_only_there(recipe: Recipe):
    frozen = {name: settings.frozen_batch_norm for name, settings in stages(recipe).items()}
    assert frozen == {"front": True, "grn": True, "lrn": False, "context": True}


@of_every_paper_recipe
def test_the_papers_networks(recipe: Recipe):
    assert recipe.encoder == "resnet101"
    assert recipe.grn_starts_from == "encoder"  # "both the front model and GRN are initialized with ... ImageNet"
    assert (recipe.iterations, recipe.neighborhood) == (3, 7)  # N and m
    assert recipe.lrn_widths == (256, 256, 256, 512, 512, 512)  # Table 1
    assert recipe.class_balance == 0  # every pixel counts the same


def test_camvid_as_the_paper_would_do_it_differs_from_cityscapes_in_name_and_crop():
    cityscapes = cityscapes_paper()
    every = stages(cityscapes) | {"light": cityscapes.light, "bilateral": cityscapes.bilateral}
    crops = {name: replace(settings, crop=(320, 320)) for name, settings in every.items()}
    assert camvid_paper() == replace(cityscapes_paper(), name="camvid_paper", dataset="camvid", **crops)  # pyright: ignore


def test_the_shipped_models_refiners_see_resized_whole_size_confidences():
    """One stored view and its mirror image an image; two cores train no LRN of Table 1's width."""
    recipe = camvid_lite()
    assert not recipe.front_at_scales
    assert recipe.grn.scales == recipe.front.scales
    assert recipe.lrn.scales == (1.0,)
    assert (recipe.iterations, recipe.neighborhood, recipe.lrn_widths) == (1, 7, NARROW)


def test_the_best_is_the_shipped_model_with_larger_networks_and_the_paper_s_iterations():
    best, lite = camvid_best(), camvid_lite()
    assert (best.encoder, best.lrn_widths, best.iterations) == ("lite2", TABLE_1, 3)
    assert best.full_backpropagation
    assert (best.class_balance, best.grn_starts_from) == (lite.class_balance, lite.grn_starts_from)
    assert best.grn.lovasz == lite.grn.lovasz


@pytest.mark.parametrize("recipe", [camvid_lite(), camvid_best()])
def test_a_drive_is_left_out_by_a_front_of_half_the_length(recipe: Recipe):
    assert recipe.without_drive is not None
    assert 2 * recipe.without_drive.epochs == recipe.front.epochs


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_registered_under_its_own_name(name: str):
    assert RECIPES[name]().name == name
