"""Reference values, and how they are found and compared."""

import os
from pathlib import Path


def folder() -> Path:
  """Where the reference values are: CORDA_GOLDEN_DIR, or this folder."""
  return Path(os.environ.get("CORDA_GOLDEN_DIR") or Path(__file__).parent)


def files(kind: str) -> list[Path]:
  """Every `KIND*.npz` of the folder."""
  return sorted(folder().glob(f"{kind}*.npz"))
