"""The public names."""

import rectiseg


def test_the_public_names_are_these():
    assert rectiseg.__all__ == [
        "GRN",
        "IGNORE_INDEX",
        "LRN",
        "Cascade",
        "Coefficients",
        "EfficientNetLite",
        "Ensemble",
        "Front",
        "Image",
        "LabelMap",
        "Logits",
        "MultiScale",
        "Parallel",
        "Parser",
        "Refiner",
        "ResNet",
        "SceneParser",
        "Tiled",
        "load",
        "propagate",
        "read_image",
        "refine",
        "save",
    ]
    assert len(rectiseg.__all__) <= 25


def test_every_public_name_is_there_and_says_what_it_is():
    for name in rectiseg.__all__:
        value = getattr(rectiseg, name)
        if getattr(value, "__module__", "").startswith("rectiseg."):
            assert value.__doc__, name


def test_the_version_is_the_project_s():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert rectiseg.__version__ == project["version"]
