"""Hugging Face's Trainer, on a tiny GPT-2 that is built offline, with our optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid
import pellucid.torch
from ecosystem.training import assert_same
from pellucid.schedules import Cosine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_module("torchvision_on_cpu")
    transformers = import_module("transformers")

CLOSE = {"rtol": 2e-5, "atol": 2e-6}
STEPS = 4
EPSILON = 1e-4
"""Attention's key bias has a gradient that is rounding alone: a small epsilon would magnify it."""


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """The Trainer leaves its precision in a state that all accelerators of a process share."""
    yield
    import_module("accelerate").state.AcceleratorState._reset_state(reset_partial_state=True)


def language_model(seed: int = 0) -> Any:
    """A GPT-2 of one layer, 16 wide, for 32 tokens."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def texts() -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(0, 32, (8, 8), generator=torch.Generator().manual_seed(7))
    return [{"input_ids": one, "labels": one} for one in tokens]


def trainer(folder: Path, model: Any, optimizer: Any, scheduler: Any = None, **how: Any) -> Any:
    arguments = transformers.TrainingArguments(
        folder, max_steps=STEPS, per_device_train_batch_size=2, use_cpu=True, disable_tqdm=True,
        report_to=[], log_level="error", logging_steps=1, **{"save_strategy": "no", **how},
    )  # fmt: skip
    return transformers.Trainer(
        model, arguments, train_dataset=texts(), optimizers=(optimizer, scheduler)
    )


def decayed(model: Any) -> list[dict[str, Any]]:
    """Groups as scripts make them: no decay for biases and norms."""
    of = {True: [], False: []}  # type: dict[bool, list[Any]]
    for name, param in model.named_parameters():
        of[name.endswith("bias") or ".ln_" in name].append((name, param))
    return [{"params": of[False], "weight_decay": 0.1}, {"params": of[True], "weight_decay": 0.0}]


def run(folder: Path, make: Any = pellucid.torch.AdamW, **how: Any) -> tuple[Any, Any]:
    model = language_model()
    optimizer = make(decayed(model), lr=0.01, eps=EPSILON)
    scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, 2, STEPS)
    made = trainer(folder, model, optimizer, scheduler, **how)
    made.train()
    return model, made


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.05},
        {"bf16": True},
    ],
    ids=str,
)
def test_as_with_torchs_own(how: dict[str, Any], tmp_path: Path) -> None:
    model, ours = run(tmp_path / "ours", **how)
    other, theirs = run(tmp_path / "theirs", torch.optim.AdamW, **how)
    loose = {"rtol": 0.0, "atol": 2e-4} if "bf16" in how else CLOSE  # products round to bf16
    assert_same(model, other, **loose)
    rates = [
        [row["learning_rate"] for row in made.state.log_history if "learning_rate" in row]
        for made in (ours, theirs)
    ]
    assert len(rates[0]) == STEPS
    assert rates[0] == rates[1]
    optimizer = ours.optimizer.optimizer
    assert optimizer.updates == STEPS
    assert optimizer.param_groups[0]["param_names"][0] == "transformer.wte.weight"


def test_the_trainers_own_choice_of_class_and_groups(tmp_path: Path) -> None:
    """`optimizer_cls_and_kwargs`: the Trainer makes groups and a linear scheduler."""
    models = []
    for make in (pellucid.torch.AdamW, torch.optim.AdamW):
        model = language_model()
        arguments = transformers.TrainingArguments(
            tmp_path, max_steps=STEPS, per_device_train_batch_size=2, use_cpu=True,
            disable_tqdm=True, report_to=[], log_level="error", save_strategy="no",
            weight_decay=0.1, learning_rate=0.01,
        )  # fmt: skip
        made = transformers.Trainer(
            model, arguments, train_dataset=texts(),
            optimizer_cls_and_kwargs=(make, {"betas": (0.9, 0.95), "eps": EPSILON}),
        )  # fmt: skip
        made.train()
        models.append(model)
        groups = made.optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
        assert groups[0]["lr"] == 0.0
    assert_same(models[0], models[1], **CLOSE)


RULES: dict[str, Any] = {
    "AdamW": lambda model: pellucid.torch.AdamW(decayed(model), lr=0.01),
    "a schedule of ours": lambda model: pellucid.torch.AdamW(
        decayed(model), lr=0.01, betas=(Cosine(0.95, steps=8, end=0.8), 0.999)
    ),
    "a chain": lambda model: pellucid.torch.Optimizer(
        model,
        pellucid.chain(pellucid.clip_by_global_norm(0.1), pellucid.Lion(0.001, weight_decay=0.1)),
        groups={"*.bias": {"weight_decay": 0.0}},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_resumed_from_a_checkpoint(rule: str, tmp_path: Path) -> None:
    """Training in one go, and from what was kept after half of it: bit for bit."""

    def begun(folder: str, seed: int) -> tuple[Any, Any]:
        model = language_model(seed)
        optimizer = RULES[rule](model)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
        how = {"save_strategy": "steps", "save_steps": 2}
        return model, trainer(tmp_path / folder, model, optimizer, scheduler, **how)

    model, whole = begun("whole", 0)
    whole.train()
    again, resumed = begun("again", 1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same(again, model)
    one, two = whole.optimizer.optimizer, resumed.optimizer.optimizer
    assert one.updates == two.updates == STEPS
    for ours, theirs in zip(one.param_groups, two.param_groups, strict=True):
        rest = [{k: v for k, v in group.items() if k != "params"} for group in (ours, theirs)]
        assert rest[0] == rest[1]
    for step in (1, STEPS):
        assert pellucid.journal(one).at(step) == pellucid.journal(two).at(step)
