"""Export the shipped parser to ONNX and run it without torch.

python examples/export_onnx.py examples/street.jpg parser.onnx labels.png
"""

from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional

from rectiseg.export import export
from rectiseg.models.checkpoint import load_parser


def main(photograph: Positional[Path], network: Positional[Path], labels: Positional[Path]) -> None:
    """Write the network, parse a photograph with it, and write the label map.

    Args:
        photograph: Any image.
        network: The ONNX file to write.
        labels: The label map to write, .png.
    """
    import onnxruntime

    print(f"{network}: {export(load_parser(), network)} as the model itself has them")
    session = onnxruntime.InferenceSession(network)
    image = np.asarray(Image.open(photograph).convert("RGB"), np.float32).transpose(2, 0, 1)[np.newaxis] / 255
    (logits,) = session.run(["logits"], {"image": image})
    Image.fromarray(np.asarray(logits)[0].argmax(axis=0).astype(np.uint8)).save(labels)


if __name__ == "__main__":
    tyro.cli(main)
