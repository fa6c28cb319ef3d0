"""Progress on the console."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**options: Any) -> tqdm:
  """A bar of tqdm; into a file, where each refresh is one more line, it writes every half minute.

  Args:
    **options: of tqdm.
  """
  seconds = 0.5 if sys.stderr.isatty() else 30
  return tqdm(mininterval=seconds, maxinterval=max(10, seconds), dynamic_ncols=True, **options)
