"""Compile the CPU kernels for the paper's m = 7, so that the first image need not wait: ``python -m rectiseg.ops``."""

import numpy as np
import torch

from rectiseg.ops.depthwise import depthwise_conv2d
from rectiseg.ops.lattice import Lattice
from rectiseg.ops.propagate import propagate

image = torch.zeros(1, 1, 7, 7, requires_grad=True)
coefficients = torch.full((1, 49, 7, 7), 1 / 49, requires_grad=True)
weight = torch.zeros(1, 1, 3, 3, requires_grad=True)
(propagate(image, coefficients) + depthwise_conv2d(image, weight)).sum().backward()
Lattice(np.zeros((7, 2), np.float32)).filtered(np.zeros((7, 1), np.float32))
