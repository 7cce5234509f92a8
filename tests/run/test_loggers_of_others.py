"""W&B's and MLflow's own loggers, offline, take what `pellucid.Logger` gives them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

PROGRAM = """
import json, sys
import numpy, pellucid, pellucid.numpy

def train(*sinks):
    optimizer = pellucid.numpy.Optimizer({"w": numpy.ones(2)}, pellucid.Adam(0.1))
    with pellucid.Logger(optimizer, *sinks, hyperparameters={"epochs": 3}) as logger:
        for step in range(3):
            optimizer.step({"w": numpy.ones(2)})
            if step == 1:
                pellucid.view(optimizer).set("beta1", 0.8, reason="try")
            logger.log(loss=1.0 / (step + 1))
"""


def printed(folder: Path, program: str, **environment: str) -> Any:
    """The last line that a program prints, which is JSON; it runs in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(program)],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "HOME": str(folder), **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_mlflow(tmp_path: Path) -> None:
    """Changing values as metrics, with their history; the initial ones as parameters."""
    found = printed(
        tmp_path,
        """
        import mlflow
        mlflow.set_tracking_uri("file:mlruns")
        with mlflow.start_run() as run:
            train(mlflow)
        client = mlflow.MlflowClient()
        kept = client.get_run(run.info.run_id).data
        name = "hyperparameters/Optimizer/beta1"
        history = [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)]
        print(json.dumps({"params": kept.params, "loss": kept.metrics["loss"], "beta1": history}))
        """,
        MLFLOW_ALLOW_FILE_STORE="true",
    )
    assert found["params"]["epochs"] == "3"
    assert found["params"]["Optimizer/beta1"] == "0.9"
    assert found["loss"] == 1 / 3
    assert found["beta1"] == [[1, 0.9], [2, 0.8], [3, 0.8]]


def test_weights_and_biases(tmp_path: Path) -> None:
    found = printed(
        tmp_path,
        """
        import wandb
        run = wandb.init(project="p", dir=".", mode="offline")
        train(run)
        run.log({"end": 1}, step=4)  # W&B keeps the last step open until there is another
        config, summary = dict(run.config), dict(run.summary)
        run.finish()
        names = ["loss", "hyperparameters/Optimizer/beta1"]
        print(json.dumps({"config": config, "values": [summary[name] for name in names]}))
        """,
        WANDB_SILENT="true",
        WANDB_MODE="offline",
    )
    assert found["config"]["epochs"] == 3
    assert found["config"]["Optimizer/beta1"] == 0.9
    assert found["values"] == [1 / 3, 0.8]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
