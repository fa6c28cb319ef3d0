"""Prepares a data set with Apache Beam, whose workers share the shards out among themselves.

    python -m data_pipelines.prepare_beam --dataset gta5 --root /shared/gta --height 720 \
      --width 1280 --depth disparity --records_dir /shared/records --workers 64 \
      --runner=DirectRunner --direct_num_workers=8

Options that `data_pipelines.prepare` does not know are Beam's. Every worker must see the same
`--root` and `--records_dir`: the record format's writer opens local files only. `--workers` is the
number of parts; several for each worker of Beam keep a slow one from holding up the others.
"""

import argparse
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from corda_jax.errors import UserError
from data_pipelines import prepare


def prepare_part(worker: int, options: argparse.Namespace) -> None:
  """Prepares one part of the shards.

  A mistake of the user's leaves them missing: raised here, Beam would try it again and again, while
  `main` comes upon it, too.
  """
  part = argparse.Namespace(**{**vars(options), "worker": worker, "processes": 1})
  try:
    prepare.prepare_as_asked(part, progress=False)
  except UserError as error:
    print(f"part {worker}: {error}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
  """The command; returns its exit code."""
  options, beam_arguments = prepare.make_parser().parse_known_args(arguments)
  parts = range(options.workers)
  with beam.Pipeline(options=PipelineOptions(beam_arguments)) as pipeline:
    # Reshuffled, or one worker might take all of them.
    _ = pipeline | beam.Create(parts) | beam.Reshuffle() | beam.Map(prepare_part, options)
  # Finds the shards finished, and makes the whole of them.
  return prepare.run(argparse.Namespace(**{**vars(options), "worker": 0, "workers": 1}))


if __name__ == "__main__":
  sys.exit(main())
