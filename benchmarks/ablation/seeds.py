"""Runs of the training program with several seeds, made once."""

import json
from pathlib import Path
from typing import Any

from corda_jax.main import run
from corda_jax.training.run_files import check_results


def run_seed(config: Any, seed: int, steps: int | None, workdir: Path) -> dict[str, Any]:
  """Results of a run that is evaluated and saved once, at its end; see `run_once`.

  Args:
    config: configuration of the run; changed in place.
    seed: seed of the run.
    steps: training steps; None: the configuration's.
    workdir: folder of the run.
  """
  config.seed = seed
  config.num_steps = steps or config.num_steps
  config.evaluate_every = config.checkpoint_every = config.num_steps
  return run_once(config, workdir)


def run_once(config: Any, workdir: Path) -> dict[str, Any]:
  """Results of one run: from its file if it is done, else after training."""
  results = workdir / "results.json"
  if results.exists():
    check_results(workdir, config.to_dict())  # those of another configuration must not slip in
  else:
    run(config, workdir, "train")
  return json.loads(results.read_text())
