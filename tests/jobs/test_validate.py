import pytest

from corda_jax.errors import UserError
from corda_jax.jobs.validate import validate
from tests import tiny


def test_the_tiny_configuration_is_valid():
  validate(tiny.get_config())


@pytest.mark.parametrize(
  ("field", "value", "wanted"),
  [
    ("optimizer.encoder_updates_per_step.stem", 0, "1 or more"),
    ("optimizer.momentum", 1.5, "0 to 1"),
    ("optimizer.learning_rate", float("nan"), "0 or more"),
    ("method.confidence_threshold", 7.0, "0 to 1"),
    ("method.teacher_decay", -0.1, "0 to 1"),
    ("method.strong_augmentation.jitter_probability", 3.0, "0 to 1"),
    ("method.strong_augmentation.blur_sigma", (2.0, 1.0), "(least, largest) above 0"),
    ("method.depth_weight.judge", "both", "'student' or 'teacher'"),
    ("method.teacher_normalization", "running", "method.teacher_statistics='average'"),
    ("model.encoder.stem_kernel", 4, "an odd number"),
    ("model.pose_encoder.width", 0, "1 or more"),
    ("model.pose_decoder_width", 0, "1 or more"),
    ("model.task_width", 0, "1 or more"),
    ("model.batch_norm_group", 3, "a divisor of data.batch_size, which is 4"),
    ("model.batch_norm_group", -1, "0 or more"),
    ("compute.matmul_precision", "half", "'default' or 'high' or 'highest'"),
    ("evaluation.label_size", "large", "'file' or 'input'"),
  ],
)
def test_values_that_cannot_work_are_told(field, value, wanted):
  with pytest.raises(UserError) as error:
    validate(tiny.get_config(**{field: value}))
  assert str(error.value).startswith(f"{field} is ")
  assert wanted in str(error.value)
