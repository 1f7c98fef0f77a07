"""Inputs of Eq. 5 or of Eqs. 4 and 5, and what an operator makes of them."""

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor, Tensor], Tensor]


def random_inputs(
    batch: int, num_classes: int, neighborhood: int, height: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(batch, num_classes, height, width, generator=generator, dtype=torch.float64)
    scores = torch.randn(batch, neighborhood**2, height, width, generator=generator, dtype=torch.float64)
    return logits.to(dtype), scores.softmax(dim=1).to(dtype)


def random_scores(
    batch: int, num_classes: int, neighborhood: int, height: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Logits, and scores whose softmax leaves some neighbours nearly without weight."""
    logits, coefficients = random_inputs(batch, num_classes, neighborhood, height, width)
    return logits.to(dtype), coefficients.log().mul(3).to(dtype)


def random_slope(refined: Tensor) -> Tensor:
    """A gradient to come in."""
    slope = torch.randn(refined.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return slope.to(refined.dtype)


def value_and_gradients(
    operator: Operator, logits: Tensor, weights: Tensor, slope: Tensor | None = None
) -> dict[str, Tensor]:
    """Weights are coefficients or scores."""
    logits, weights = logits.detach().requires_grad_(), weights.detach().requires_grad_()
    refined = operator(logits, weights)
    refined.backward(random_slope(refined) if slope is None else slope)
    assert logits.grad is not None
    assert weights.grad is not None
    return {"value": refined.detach(), "d/dlogits": logits.grad, "d/dweights": weights.grad}


def gradient_alone(operator: Operator, inputs: tuple[Tensor, Tensor], wanted: int) -> Tensor:
    """That of one input, where the other wants none and gets none."""
    arguments = [tensor.detach().requires_grad_(index == wanted) for index, tensor in enumerate(inputs)]
    operator(*arguments).square().sum().backward()
    assert arguments[1 - wanted].grad is None
    gradient = arguments[wanted].grad
    assert gradient is not None
    return gradient


def assert_agree(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor,
            expected[name].to(tensor.dtype),
            rtol=tolerance,
            atol=tolerance,
            msg=lambda message, name=name: f"{name}: {message}",
        )
