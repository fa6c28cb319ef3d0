"""The curves of runs are read back whole, and the table tells types from seeds."""

import numpy as np
import pytest
from clu import metric_writers

from benchmarks import precision
from corda_jax.errors import UserError

STEPS = 200


def write_run(workdir, steps):
  writer = metric_writers.SummaryWriter(str(workdir / "tensorboard"))
  for step in steps:
    writer.write_scalars(
      step, {f"train/{name}": step / 4 for name in ("total", "ce_src", "ce_mix")}
    )
  writer.close()


def test_curves_are_read_as_they_were_logged(tmp_path):
  write_run(tmp_path, range(1, STEPS + 1))
  curves = precision.read_curves(tmp_path)
  assert sorted(curves) == ["ce_mix", "ce_src", "total"]
  for values in curves.values():
    np.testing.assert_array_equal(values, np.arange(1, STEPS + 1) / 4)


@pytest.mark.parametrize("steps", [range(0), range(1, STEPS), [*range(1, 100), *range(101, 202)]])
def test_a_curve_that_lacks_steps_is_told(tmp_path, steps):
  write_run(tmp_path, steps)
  with pytest.raises(UserError, match=f"lacks steps of the first {STEPS}: delete that folder"):
    precision.read_curves(tmp_path)


def test_the_table_tells_types_from_seeds():
  def curves(values):
    return [dict.fromkeys(("total", "ce_src", "ce_mix"), np.full(STEPS, x)) for x in values]

  lines = precision.losses_table(
    {"wide": curves([1.0, 3.0]), "narrow": curves([1.1, 2.8]), "other": curves([1.5, 3.0])}
  )
  first = lines.splitlines()[2]
  assert first == (
    "| total, 1 to 50 | 2.000 ± 1.414 | 1.950 ± 1.202 | 2.250 ± 1.061 | 0.200 | 0.500 |"
  )
  assert len(lines.splitlines()) == 2 + 3 * 4


@pytest.mark.parametrize(
  ("flags", "message"), [(["--seeds", "1"], "2 or more"), (["--steps", "100"], "200 or more")]
)
def test_runs_that_could_not_tell_are_refused(flags, message):
  with pytest.raises(UserError, match=message):
    precision.main(flags)
