"""FC-CRF, a baseline of Table 2: Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge
potentials", NIPS 2011."""

from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from rectiseg.types import Image, Logits


class FullyConnectedCRF(nn.Module):
    """Mean field in a Potts model in which every two pixels i and j pay for having different labels.

    They pay ``bilateral_compatibility`` times a Gaussian of the distance between their places, of standard deviation
    ``bilateral_width`` in pixels, and between their colours, ``bilateral_color_width`` in units of 0..255 (the
    appearance kernel), and ``gaussian_compatibility`` times one of their places alone, ``gaussian_width`` in pixels
    (the smoothness kernel). Both kernels are normalised symmetrically, k_ij / sqrt(sum_j k_ij * sum_i k_ij), so that
    a compatibility means the same at any width.

    The result is the logarithm of the marginals after so many ``iterations``, in float32; without any those of the
    input. Nothing is learned and no gradient passes. The extra ``[crf]`` does the filtering, on the CPU. Widths that
    are not positive or a negative number of iterations raise ValueError.
    """

    def __init__(
        self,
        gaussian_width: float = 1.0,
        gaussian_compatibility: float = 2.0,
        bilateral_width: float = 20.0,
        bilateral_color_width: float = 5.0,
        bilateral_compatibility: float = 4.0,
        iterations: int = 5,
    ):
        super().__init__()
        narrowest = min(gaussian_width, bilateral_width, bilateral_color_width)
        if narrowest <= 0:
            raise ValueError(f"the widths of a CRF's kernels are positive, not {narrowest}")
        if iterations < 0:
            raise ValueError(f"a CRF cannot do {iterations} iterations")
        self.gaussian_width = gaussian_width
        self.gaussian_compatibility = gaussian_compatibility
        self.bilateral_width = bilateral_width
        self.bilateral_color_width = bilateral_color_width
        self.bilateral_compatibility = bilateral_compatibility
        self.iterations = iterations

    def forward(self, image: Image, logits: Logits) -> Logits:
        colors = (255 * image.detach()).round().to("cpu", torch.uint8)
        energies = -logits.detach().to("cpu", torch.float32).log_softmax(dim=1)
        marginals = torch.stack([self.marginals(*sample) for sample in zip(colors, energies, strict=True)])
        return marginals.clamp(min=torch.finfo(marginals.dtype).tiny).log().to(logits.device)

    def marginals(
        self, colors: UInt8[Tensor, "3 height width"], energies: Float[Tensor, "classes height width"]
    ) -> Float[Tensor, "classes height width"]:
        """Algorithm 1 there, for one image."""
        classes, height, width = energies.shape
        crf = import_densecrf().DenseCRF2D(width, height, classes)
        crf.setUnaryEnergy(energies.flatten(1).numpy())
        crf.addPairwiseGaussian(self.gaussian_width, self.gaussian_compatibility)
        crf.addPairwiseBilateral(
            self.bilateral_width,
            self.bilateral_color_width,
            colors.permute(1, 2, 0).contiguous().numpy(),
            self.bilateral_compatibility,
        )
        return torch.from_numpy(np.array(crf.inference(self.iterations))).view(classes, height, width)


def import_densecrf() -> ModuleType:
    try:
        from pydensecrf import densecrf  # pyright: ignore
    except ModuleNotFoundError as error:
        raise ValueError("the fully connected CRF needs pydensecrf2: pip install 'rectiseg[crf]'") from error
    return densecrf
