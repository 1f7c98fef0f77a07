"""`rectiseg publish`: a model for others."""

from pathlib import Path

from tyro.conf import Positional

from rectiseg.commands.options import OptionalPath


def publish(
    model: Positional[Path],
    place: Positional[str],
    card: OptionalPath = None,
    private: bool = False,
) -> int:
    """Put a saved model and a card that describes it onto the Hugging Face Hub, or into a folder.

    `rectiseg.load` takes the same name, and so does every command's --model. On the hub you have to be logged in, by
    `hf auth login`.

    Example: rectiseg publish parser.safetensors somebody/street-parser

    Args:
        model: A saved parser or refiner, .safetensors.
        place: SOMEBODY/MODEL on the hub, or a folder, which begins with . or /.
        card: A card of your own, Markdown; by default what the file says of its training.
        private: Nobody else may see it.
    """
    from rectiseg.models.checkpoint import file_of, load, read_training, title
    from rectiseg.models.hub import card_of, published

    file = file_of(model)
    network = load(file)  # whole, and of this version
    text = card_of(title(network), read_training(file), place) if card is None else card.read_text(encoding="utf-8")
    print(f"{published(file, text, place, private)}: rectiseg.load({place!r}) loads it")
    return 0
