"""Settings of the adaptation that belong to no part of its step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from corda_jax.configuration import check_at_least, check_one_of, free
from corda_jax.training.settings import Compute, EvaluationSettings


@dataclasses.dataclass(frozen=True)
class AdaptationCompute(Compute):
  """How the numbers are computed.

  Attributes:
    one_student_pass: whether the student sees source and mixed images as one batch, each normalised
      by itself, and not one after the other. The numbers are the same; devices exchange gradients
      once, not twice.
  """

  one_student_pass: bool = free(False)


@dataclasses.dataclass(frozen=True)
class AdaptationEvaluation(EvaluationSettings):
  """How the network is scored on the target's validation set, and depth heads, if it has depth.

  Attributes:
    classes: whose mean is reported as mIoU: "all", one of `class_sets` or, with the 19 classes of
      Cityscapes, "synthia_16" or "synthia_13".
    class_sets: more sets of classes whose means are reported: {"moving": ("car", "person")}.
    network: "student" or "teacher".
    label_size: "file": labels at the size of their files, as results are reported (Cityscapes:
      2048x1024); "input": brought to the size of the network's input, as released for validation in
      training.
    flip: whether predictions are averaged with that of the mirrored frame.
    devices_per_frame: devices that share a frame, each a strip of its rows; for frames that are too
      large for one, or where there are more devices than frames.
    scales: factors of the input's size whose predictions are averaged.
    resize_via_input: whether predictions are resized to the size of the input before that of the
      labels, as DAFormer's release does; windows always are.
    window: (rows, columns), pixels of the input: frames are predicted in windows of this size,
      which are averaged where they overlap, as HRDA does; (0, 0): as a whole.
    window_stride: (rows, columns) from one window to the next.
    window_mean: what is averaged where windows overlap, "logits", as HRDA does, or "probabilities",
      as VFM-UDA does.
  """

  classes: str = "all"
  class_sets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  network: str = "student"
  label_size: str = "file"
  flip: bool = False
  devices_per_frame: int = 1
  scales: tuple[float, ...] = (1.0,)
  resize_via_input: bool = False
  window: tuple[int, int] = (0, 0)
  window_stride: tuple[int, int] = (512, 512)
  window_mean: str = "logits"

  def __post_init__(self):
    super().__post_init__()
    check_one_of(self, network=("student", "teacher"), label_size=("file", "input"))
    check_one_of(self, window_mean=("logits", "probabilities"))
    check_at_least(self, devices_per_frame=1)
    if not self.scales or not all(isinstance(x, int | float) and x > 0 for x in self.scales):
      raise ValueError(f"scales is {self.scales}, expected factors above 0, such as (1.0,)")
    for name, least in (("window", 0), ("window_stride", 1)):
      value = getattr(self, name)
      if len(value) != 2 or not all(isinstance(n, int) and n >= least for n in value):
        raise ValueError(f"{name} is {value}, expected (rows, columns) of {least} or more")
    if bool(self.window[0]) != bool(self.window[1]):
      raise ValueError(f"window is {self.window}, expected (rows, columns), or (0, 0) for none")
    if any(self.window) and any(map(int.__gt__, self.window_stride, self.window)):
      raise ValueError(
        f"window_stride is {self.window_stride}, expected at most the window, {self.window}, or "
        "some pixels are in none"
      )
    if any(self.window) and self.devices_per_frame > 1:
      raise ValueError(
        f"devices_per_frame is {self.devices_per_frame}, but windows are each predicted by one "
        "device: set it to 1, or window=(0, 0)"
      )
