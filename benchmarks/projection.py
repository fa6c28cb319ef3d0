"""How would a training step scale to many chips? Arithmetic on paper, nothing is run.

    python -m benchmarks.projection

Prints the last table of docs/scaling.md. What is assumed stands below, each value with its source;
`benchmarks.messages` counts what devices send each other. A step is computed, then its messages
follow one after the other and overlap with nothing: each takes its latency, and the gradients take
their time on the wires, too.
"""

import dataclasses

PAIRS = 2  # of crops of 512x512, on each chip
OPERATIONS = PAIRS * 2.79e12  # a step and chip: docs/benchmarks.md, "On a GPU"
SHARE = 0.4  # of the chip's peak while it computes


@dataclasses.dataclass(frozen=True)
class Chip:
  """A chip and what joins it to others.

  Attributes:
    name: in the table.
    peak: operations a second in bfloat16.
    wire: bytes a second of a chip, to those of its machine; on TPUs, of its slice.
    latency: seconds of an all-reduce among those.
    machine: chips of a machine; None: the wires join all.
    card: bytes a second of a chip, to other machines.
    far_latency: seconds of an all-reduce over several machines.
  """

  name: str
  peak: float
  wire: float
  latency: float
  machine: int | None = None
  card: float = 0.0
  far_latency: float = 0.0


@dataclasses.dataclass(frozen=True)
class Program:
  """A way to compile the step.

  Attributes:
    name: in the table.
    gradients: bytes of gradients that are summed over the chips in a step.
    messages: all-reduces a step, those of gradients among them.
  """

  name: str
  gradients: float
  messages: int


CHIPS = (
  # 790 TFLOP/s: once measured by a matrix product, not by a command of this repository. NVLink; one
  # NDR card a chip, eight a machine. Latencies are guessed, here and below.
  Chip("H200", 790e12, 450e9, 15e-6, machine=8, card=46e9, far_latency=60e-6),
  # https://cloud.google.com/tpu/docs/v5e
  Chip("TPU v5e", 197e12, 200e9, 20e-6),
)
COUNTS = (8, 64, 256)
# Counted by `benchmarks.messages` for configs/gta2cs.py, tables of docs/scaling.md.
PROGRAMS = (
  Program("whole batch", 378e6, 466 + 465 + 228),
  Program("groups of 2", 378e6, 7 + 3 + 1),
  Program("groups of 2, one pass", 189e6, 2 + 2 + 3 + 1),
)


def gradient_seconds(size: float, chip: Chip, count: int) -> float:
  """Seconds that a sum of gradients over chips takes on the wires.

  Among n chips a ring takes 2 S (n - 1) / n over the bandwidth of one. Among m machines those of a
  machine first sum a share of S each; a share then goes around a ring of its own, through the
  chip's card; last, the machine's chips gather the shares.

  Args:
    size: S, bytes of the gradients.
    chip: of which kind they are.
    count: chips; whole machines, or fewer than one has.

  Raises:
    ValueError: the last machine is not whole.
  """
  machine = min(count, chip.machine or count)
  if count % machine:
    raise ValueError(f"{count} chips do not fill machines of {machine}")
  machines = count // machine
  seconds = 2 * size * (machine - 1) / machine / chip.wire
  if machines > 1:
    seconds += 2 * (size / machine) * (machines - 1) / machines / chip.card
  return seconds


def message_seconds(messages: int, chip: Chip, count: int) -> float:
  """Seconds that so many all-reduces over `count` chips wait for their latency."""
  far = chip.machine is not None and count > chip.machine
  return messages * (chip.far_latency if far else chip.latency)


def compute_seconds(chip: Chip) -> float:
  """Seconds that a chip computes in a step."""
  return OPERATIONS / (SHARE * chip.peak)


def table() -> str:
  """All chips, counts and programs, as Markdown."""
  programs = " | ".join(f"{each.name}: gradients + messages → step, ms" for each in PROGRAMS)
  lines = [f"| | computes, ms | {programs} | pairs/s |", "|---" * (len(PROGRAMS) + 3) + "|"]
  for chip in CHIPS:
    computes = compute_seconds(chip)
    for count in COUNTS:
      cells = []
      for program in PROGRAMS:
        gradients = gradient_seconds(program.gradients, chip, count)
        messages = message_seconds(program.messages, chip, count)
        step = computes + gradients + messages
        cells.append(
          f"{1e3 * gradients:.1f} + {1e3 * messages:.1f} → {1e3 * step:.0f} ({computes / step:.0%})"
        )
      cells.append(f"{count * PAIRS / step:,.0f}")  # of the last program
      lines.append(f"| {count} {chip.name} | {1e3 * computes:.0f} | {' | '.join(cells)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  print(table())
