"""Storage beside what users declare and hand over: slots' names, gradients' types, gaps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pellucid.torch
from pellucid import SGD, Rule, hyper, slot


class Lost(Rule):
    """A user's own slot of the name that Kahan's rounding takes."""

    learning_rate = hyper(0.5)
    compensation = slot()

    def update(self, param: Any, grad: Any) -> Any:
        self.compensation = self.compensation + grad
        return param - self.learning_rate * grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_a_users_slot_named_compensation(
    dtype: torch.dtype, rounding: Any, compiled: bool
) -> None:
    param = torch.nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = pellucid.torch.Optimizer([param], Lost(), rounding=rounding, compiled=compiled)
    for _ in range(3):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert param.tolist() == [-0.5] * 4
    assert optimizer.state[param]["compensation"].tolist() == [3.0] * 4


def test_kahan_refuses_a_slot_of_its_name() -> None:
    param = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"rounding=.kahan. .* Lost has one of that name"):
        pellucid.torch.Optimizer([param], Lost(), rounding="kahan")


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_float32_gradients_of_16_bit_parameters_with_gaps(compiled: bool) -> None:
    param = torch.nn.Parameter(torch.ones(5, 4, dtype=torch.bfloat16)[:, :3])
    param.grad_dtype = torch.float32
    grad = torch.linspace(-1, 1, 15).reshape(5, 3)
    optimizer = pellucid.torch.Optimizer([param], SGD(1.0), compiled=compiled)
    for _ in range(2):
        before = param.detach().float()
        param.grad = grad.clone()
        optimizer.step()
        assert torch.equal(param.float(), (before - grad).bfloat16().float())


def test_gradients_of_a_type_that_no_kernel_reads() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    param.grad_dtype = torch.float8_e4m3fn
    param.grad = torch.ones(3).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"dtype torch\.float8_e4m3fn"):
        pellucid.torch.SGD([param]).step()
    assert param.tolist() == [1.0] * 3
