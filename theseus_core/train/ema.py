"""The averaged weights: an exponential moving average in fp32, which is what a trained model is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from theseus_core.train.distributed import local


class Ema:
    """A moving average of a model's trainable parameters; buffers and frozen parameters are taken as they are.

    Args:
        model: its trainable parameters are fp32, sharded or not.
        decay: how much of the average stays in a step, once warmed up; 0 makes the average the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        assert all(p.dtype == torch.float32 for p in self.parameters), "master weights are fp32"
        self.average = [p.detach().clone() for p in self.parameters]
        self._by_id = {id(p): average for p, average in zip(self.parameters, self.average, strict=True)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after step `step`, counted from 0. Early on the average is over few steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._local(self.average), self._local(self.parameters), 1 - decay)

    def of(self, parameter: Tensor) -> Tensor:
        """The average of a parameter; any other tensor as it is."""
        return self._by_id.get(id(parameter), parameter)

    @torch.no_grad()
    def store(self) -> None:
        """Make the average the weights, for good."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.copy_(average)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The averaged weights in the model, for as long as the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._local(self.parameters), self._local(self.average), strict=True):
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)

    @staticmethod
    def _local(tensors: list[Tensor] | list[nn.Parameter]) -> list[Tensor]:
        return [local(tensor.detach()) for tensor in tensors]
