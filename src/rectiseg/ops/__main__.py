"""Compile the shipped networks' CPU kernels, so that the first image need not wait: ``python -m rectiseg.ops``."""

import numpy as np
import torch

from rectiseg.ops.bilateral import propagate_alike
from rectiseg.ops.depthwise import depthwise_conv2d
from rectiseg.ops.lattice import Lattice
from rectiseg.ops.propagate import propagate_scores
from rectiseg.ops.similarity import similarities

image = torch.zeros(1, 1, 7, 7, requires_grad=True)
weight = torch.zeros(1, 1, 3, 3, requires_grad=True)
depthwise_conv2d(image, weight).sum().backward()
for side in (3, 7):  # the neighbourhoods of the shipped LRNs
    scores = torch.zeros(1, side**2, 7, 7, requires_grad=True)
    propagate_scores(image, scores).sum().backward()
similarities(image, 3)
with torch.no_grad():
    propagate_alike(image, torch.zeros(1, 9, 7, 7), image, torch.ones(1))
Lattice(np.zeros((7, 2), np.float32)).filtered(np.zeros((7, 1), np.float32))
