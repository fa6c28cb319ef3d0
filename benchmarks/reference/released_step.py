r"""For `benchmarks.speed.step`: the training step of the released PyTorch code, on random batches.

    git clone https://github.com/qinenergy/corda released
    python -m benchmarks.speed.step \
      --reference "released=python benchmarks/reference/released_step.py released"

Network and losses are the release's own, imported from the folder; its training script is
restated, without loaders, prints and the copies for a batch of two. Two things favour the
reference: colour jitter and blur are left out, for which it needs an old kornia; and cuDNN may try
its algorithms and take the fastest, which the release forbids (`--deterministic`: as the release
does). Needs only PyTorch and NumPy; its Python may differ from the benchmark's.
"""

import argparse
import copy
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

NUM_CLASSES, IGNORE = 19, 255
CONFIDENT, TEACHER_DECAY = 0.968, 0.999


def main() -> None:
  """Reads numbers of steps, one per line, and answers with the seconds that they took."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", help="folder of the release")
  parser.add_argument("--batch", type=int, default=2)
  parser.add_argument("--height", type=int, default=512)
  parser.add_argument("--width", type=int, default=512)
  parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
  parser.add_argument("--tf32", action="store_true", help="float32 products by TF32")
  parser.add_argument("--autocast", action="store_true", help="networks in bfloat16")
  parser.add_argument("--deterministic", action="store_true", help="cuDNN as the release sets it")
  parser.add_argument("--channels_last", action="store_true", help="layout of the convolutions")
  options = parser.parse_args()
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
  torch.backends.cudnn.benchmark = not options.deterministic
  torch.backends.cudnn.deterministic = options.deterministic
  torch.manual_seed(0)
  run = ReleasedStep(options)
  print("ready", flush=True)
  for line in sys.stdin:
    started = time.perf_counter()
    for _ in range(int(line)):
      run()
    if options.device == "cuda":
      torch.cuda.synchronize()
    print(time.perf_counter() - started, flush=True)


class ReleasedStep:
  """Networks, optimiser and a batch; a call makes one step."""

  def __init__(self, options: argparse.Namespace) -> None:
    """Builds everything as the training script of the GTA variant does."""
    sys.path.insert(0, options.folder)
    from model.deeplabv2_gta import Res_Deeplab
    from utils.loss import BerhuLoss, CrossEntropy2d

    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    self.student = Res_Deeplab(num_classes=NUM_CLASSES).to(options.device, memory_format=layout)
    self.teacher = copy.deepcopy(self.student)
    for parameter in self.teacher.parameters():
      parameter.requires_grad_(False)
    self.student.train()
    self.teacher.train()
    groups = [
      {"params": list(self.student.get_1x_lr_params_NOscale()), "lr": 2.5e-4},
      {"params": list(self.student.get_10x_lr_params()), "lr": 2.5e-3},
    ]
    # One by one, as in the PyTorch of its time: parameters are listed several times.
    self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4, foreach=False)
    self.berhu, self.cross_entropy = BerhuLoss(), CrossEntropy2d(ignore_label=IGNORE)
    self.weighted = nn.CrossEntropyLoss(ignore_index=IGNORE, reduction="none")
    self.autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.autocast)
    self.size = (options.height, options.width)
    self.iteration = 0
    self._make_batch(options)

  def _make_batch(self, options: argparse.Namespace) -> None:
    shape, device = (options.batch, *self.size), options.device
    layout = torch.channels_last if options.channels_last else torch.contiguous_format

    def image():
      x = torch.rand(shape[0], 3, *self.size, device=device) * 255 - 120
      return x.contiguous(memory_format=layout)

    coarse = torch.randint(0, NUM_CLASSES, (shape[0], -(-shape[1] // 8), -(-shape[2] // 8)))
    label = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : shape[1], : shape[2]]
    self.source, self.target, self.label = image(), image(), label.contiguous().to(device)
    self.source_depth, self.target_depth = (
      2 + 98 * torch.rand(shape[0], 1, *self.size, device=device) for _ in range(2)
    )

  def _forward(self, network: nn.Module, x: torch.Tensor, *heads: str) -> dict[str, torch.Tensor]:
    """Outputs of these heads, upsampled."""
    with self.autocast:
      outputs = network(x)
    return {
      name: F.interpolate(outputs[name].float(), self.size, mode="bilinear", align_corners=True)
      for name in heads
    }

  def __call__(self) -> None:
    """One step: source, teacher, mixed image, update."""
    self.optimizer.zero_grad()
    out = self._forward(self.student, self.source, "S", "initial_S", "D_src", "initial_D_src")
    loss = self.cross_entropy(out["S"], self.label) + self.cross_entropy(
      out["initial_S"], self.label
    )
    for head in ("D_src", "initial_D_src"):
      loss = loss + 0.01 * self.berhu(out[head], self.source_depth)

    with torch.no_grad():
      logits = self._forward(self.teacher, self.target, "initial_S")["initial_S"]
      confidence, pseudo_label = torch.softmax(logits, 1).max(1)
    mask = self._mix_mask()
    image = torch.where(mask, self.source, self.target)
    label = torch.where(mask[:, 0], self.label, pseudo_label)
    depth = torch.where(mask, self.source_depth, self.target_depth)

    depths = ("D", "D_src", "initial_D", "initial_D_src")
    out = self._forward(self.student, image, "S", "initial_S", *depths)
    share = (confidence >= CONFIDENT).float().mean().item()
    weight = torch.where(mask[:, 0], 1.0, share)
    with torch.no_grad():
      discrepancy = (out["D_src"] - out["D"]).abs() / depth
      trust = (torch.relu(1 - discrepancy) + 0.001 + (depth == 1).float()).clamp(0, 1)
      # The release's broadcast over the batch, B times as many values, is left out, too.
      weight = weight * (trust / trust.mean())
    for head in ("S", "initial_S"):
      loss = loss + (self.weighted(out[head], label) * weight).mean()
    for head in ("D", "initial_D"):
      predicted = torch.where(mask, out[f"{head}_src"], out[head])
      loss = loss + 0.001 * self.berhu(predicted, depth)
    loss.backward()
    self.optimizer.step()
    self._update_teacher()

  def _mix_mask(self) -> torch.Tensor:
    masks = []
    for label in self.label:
      classes = torch.unique(label)
      chosen = torch.randperm(len(classes), device=classes.device)[: (len(classes) + 1) // 2]
      masks.append(torch.isin(label, classes[chosen]))
    return torch.stack(masks)[:, None]

  @torch.no_grad()
  def _update_teacher(self) -> None:
    keep = min(1 - 1 / (self.iteration + 1), TEACHER_DECAY)
    for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
      teacher.mul_(keep).add_(student, alpha=1 - keep)
    self.iteration += 1


if __name__ == "__main__":
  main()
