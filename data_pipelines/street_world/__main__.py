"""Writes a procedural data set, shows a sheet of frames, or measures the renderer's speed.

    python -m data_pipelines.street_world --layout gta5 --root data/gta --frames 600 --size 128x72
    python -m data_pipelines.street_world --layout cityscapes --root data/CityScapes \
        --frames 600 --validation_frames 100 --size 128x64
    python -m data_pipelines.street_world --layout folder_real --root data/mine/target \
        --frames 600 --validation_frames 100 --size 128x64
    python -m data_pipelines.street_world --sheet street_world.png --size 256x128
    python -m data_pipelines.street_world --benchmark --size 128x64
"""

import argparse
import re
import sys

from data_pipelines.street_world import domains, formats, preview, write
from data_pipelines.street_world import gap as gap_lib


def _size(text: str) -> tuple[int, int]:
  match = re.fullmatch(r"(\d+)x(\d+)", text)
  if not match:
    raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 128x64")
  return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.street_world", description=__doc__.split("\n")[0]
  )
  task = parser.add_mutually_exclusive_group(required=True)
  task.add_argument("--layout", choices=formats.LAYOUTS, help="write a data set in this layout")
  task.add_argument("--sheet", metavar="FILE", help="write a PNG of frames of both domains")
  task.add_argument("--benchmark", action="store_true", help="measure frames a second on one core")
  parser.add_argument("--root", help="folder of the data set")
  parser.add_argument("--frames", type=int, default=600, help="training frames (default 600)")
  parser.add_argument(
    "--validation_frames", type=int, default=100, help="cityscapes and folder_*, default 100"
  )
  parser.add_argument(
    "--neighbours", type=int, default=1,
    help="cityscapes only: frames of the sequence on each side (default 1)",
  )  # fmt: skip
  parser.add_argument("--size", type=_size, default=(128, 64), metavar="WxH", help="default 128x64")
  parser.add_argument("--seed", type=int, default=0, help="default 0")
  parser.add_argument(
    "--gap", type=float, default=1.0,
    help="how far the real city's look is from the synthetic one's, 0 to 2, default 1",
  )  # fmt: skip
  parser.add_argument("--processes", type=int, default=0, help="default 0: one a core")
  return parser


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  parser = _parser()
  args = parser.parse_args(arguments)
  width, height = args.size
  try:
    real = gap_lib.real_city(args.gap)
  except ValueError as error:
    parser.error(str(error))
  if args.gap != 1 and args.layout not in (None, "cityscapes", "folder_real"):
    parser.error(f"--gap is for the real city, not for --layout {args.layout}: leave it out")
  if args.benchmark:
    for domain in (domains.SYNTHETIC, real):
      rate = preview.frames_per_second(domain, height=height, width=width)
      print(f"{domain.name}: {rate:.1f} frames a second at {width}x{height}")
    return 0
  if args.sheet:
    preview.write_sheet(args.sheet, real, height=height, width=width, seed=args.seed)
    return 0
  if not args.root:
    parser.error("--layout needs --root, the folder to write")
  common = {"seed": args.seed, "height": height, "width": width, "processes": args.processes}
  try:
    if args.layout == "cityscapes":
      root = write.write_cityscapes(
        args.root,
        train_frames=args.frames,
        validation_frames=args.validation_frames,
        neighbours=args.neighbours,
        domain=real,
        **common,
      )
    elif args.layout.startswith("folder_"):
      root = write.write_folder(
        args.root,
        train_frames=args.frames,
        validation_frames=args.validation_frames,
        domain=real if args.layout == "folder_real" else domains.SYNTHETIC,
        **common,
      )
    else:
      writer = {"gta5": write.write_gta5, "synthia": write.write_synthia}[args.layout]
      root = writer(args.root, frames=args.frames, **common)
  except (ValueError, RuntimeError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("stopped; run the same command again to continue", file=sys.stderr)
    return 130
  print(f"{root} is complete")
  return 0


if __name__ == "__main__":
  sys.exit(main())
