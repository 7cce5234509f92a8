"""Views and the journal of optimizers of the old API."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras

pytestmark = pytest.mark.backends("tensorflow")


def made() -> tuple[Any, Any]:
    class MyOptimizer(pellucid.keras.legacy.Optimizer):  # type: ignore[misc]
        def __init__(self, learning_rate: float = 0.01, name: str = "MyOptimizer") -> None:
            super().__init__(name)
            self._set_hyper("learning_rate", learning_rate)
            self._set_hyper("momentum", 0.9)

        def _create_slots(self, var_list: Any) -> None:
            for var in var_list:
                self.add_slot(var, "m")

        def _resource_apply_dense(self, grad: Any, var: Any, apply_state: Any = None) -> None:
            m = self.get_slot(var, "m")
            m.assign(self._get_hyper("momentum") * m + grad)
            var.assign_sub(self._decayed_lr(var.dtype.base_dtype) * m)

        def get_config(self) -> dict[str, Any]:
            own = ("learning_rate", "momentum")
            return {
                **super().get_config(),
                **{name: self._serialize_hyperparameter(name) for name in own},
            }

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    optimizer = MyOptimizer()
    model.compile(optimizer, "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
    return model, optimizer


def test_hyperparameters_slots_and_journal() -> None:
    model, optimizer = made()
    view = pellucid.view(optimizer, model=model)
    assert view["learning_rate"] == pytest.approx(0.01)
    view.set("momentum", 0.5, reason="calmer")
    assert float(optimizer.momentum) == 0.5
    (kernel,) = [one for one in model.trainable_variables if one.name == "kernel"]
    slot = view.state[f"{kernel.path}/m"]
    np.testing.assert_array_equal(slot, optimizer.get_slot(kernel, "m"))
    (change,) = pellucid.journal(optimizer)
    assert (change.name, change.new, change.reason) == ("momentum", 0.5, "calmer")
    before = np.array(kernel)
    view["learning_rate"] = 0.0
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
    np.testing.assert_array_equal(np.array(kernel), before)
