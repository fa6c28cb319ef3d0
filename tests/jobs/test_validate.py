import re

import pytest

from corda_jax.errors import UserError
from corda_jax.jobs.validate import validate
from tests import tiny


def test_the_tiny_configuration_is_valid():
  validate(tiny.get_config())


@pytest.mark.parametrize(
  ("field", "value", "wanted"),
  [
    ("optimizer.encoder_updates_per_step.stem", 0, r"\b1\b"),
    ("optimizer.momentum", 1.5, r"\b0\b.*\b1\b"),
    ("optimizer.learning_rate", float("nan"), r"\b0\b"),
    ("method.confidence_threshold", 7.0, r"\b0\b.*\b1\b"),
    ("method.teacher_decay", -0.1, r"\b0\b.*\b1\b"),
    ("method.strong_augmentation.jitter_probability", 3.0, r"\b0\b.*\b1\b"),
    ("method.strong_augmentation.blur_sigma", (2.0, 1.0), r"\b0\b"),
    ("method.depth_weight.judge", "both", r"student.*teacher"),
    ("method.teacher_normalization", "running", r"method\.teacher_statistics.*average"),
    ("model.encoder.stem_kernel", 4, r"\bodd\b"),
    ("model.pose_encoder.width", 0, r"\b1\b"),
    ("model.pose_decoder_width", 0, r"\b1\b"),
    ("model.task_width", 0, r"\b1\b"),
    ("model.batch_norm_group", 3, r"data\.batch_size.*\b4\b"),
    ("model.batch_norm_group", -1, r"\b0\b"),
    ("compute.matmul_precision", "half", r"default.*high.*highest"),
    ("evaluation.label_size", "large", r"file.*input"),
  ],
)
def test_values_that_cannot_work_are_told(field, value, wanted):
  told = rf"{re.escape(field)}\b.*{re.escape(str(value))}.*{wanted}"
  with pytest.raises(UserError, match=told):
    validate(tiny.get_config(**{field: value}))
