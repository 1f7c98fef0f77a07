"""`rectiseg report`: one page that shows what refinement mends and breaks."""

from typing import Literal

from tyro.conf import Positional

from rectiseg.commands.options import DatasetChoice, JsonFile, OptionalPath, Output, device_named, write_json


def report(
    source: Positional[OptionalPath] = None,
    /,
    *,
    output: Output,
    dataset: DatasetChoice = "camvid",
    data: OptionalPath = None,
    split: Literal["train", "val", "test"] = "val",
    images: OptionalPath = None,
    labels: OptionalPath = None,
    predictions: OptionalPath = None,
    classes: OptionalPath = None,
    show: int = 4,
    json_file: JsonFile = None,
    device: str = "cpu",
) -> int:
    """Write one HTML file that shows what refinement mends and breaks; it opens in any browser, without a network.

    Images under a slider, before and after, the worst and the best; every class, boundaries and calibration. It is of a
    model on a data set (or on a folder of images), or of two folders of predictions.

    Example: rectiseg report --data CamVid -o report.html

    Example: rectiseg report refined --images photos --predictions predictions -o report.html

    Args:
        source: A saved parser, the folder of a training (its parser is taken), or a folder of refined predictions, as
            `rectiseg refine` writes it; the shipped parser by default.
        output: The file to write, .html.
        dataset: The reader of the data set in --data.
        data: The data set's folder (generated scenes need none).
        split: Which part of it.
        images: A folder of images, in place of a data set.
        labels: The folder of their label maps, of the same names; without them the page shows what changed.
        predictions: What was refined: the folder of predictions from before.
        classes: A classes.json with the classes' names and colours; a model knows its own.
        show: So many images of the worst, and as many of the best.
        json_file: Where to write the scores of both sides, and how every image fared, as JSON.
        device: cpu, cuda, ...
    """
    from rectiseg.data.files import atomic_path
    from rectiseg.progress import ProgressReporter
    from rectiseg.report.measure import as_json, measure
    from rectiseg.report.page import page
    from rectiseg.report.sources import Pictures, file_cases, model_cases, parser_in

    if output.suffix.lower() != ".html":
        raise ValueError(f"{output}: a report is a web page; end the name in .html")
    if show < 1:
        raise ValueError(f"--show {show}: show one image or more")
    pictures = Pictures(dataset, data, split, images, labels)
    model = parser_in(source)
    if model is not None or source is None:
        if predictions is not None or classes is not None:
            raise ValueError("--predictions and --classes go with a folder of refined predictions: name it, too")
        cases = model_cases(model, pictures, device_named(device))
    elif predictions is None:
        raise ValueError(f"{source}: no parser is in here; if it holds refined predictions, name --predictions, too")
    else:
        cases = file_cases(source, predictions, pictures, classes)
    with ProgressReporter() as reporter:
        measured = measure(cases, reporter)
    text = page(cases, measured, f"{source or 'the shipped parser'} on {pictures.title}", show)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as path:
        path.write_text(text, encoding="utf-8")
    if json_file is not None:
        write_json(json_file, as_json(measured, cases.classes))
    print(f"{output}: open it in a browser ({len(text) / 1e6:.1f} MB)")
    return 0
