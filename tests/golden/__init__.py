"""Reference values, and how they are found and compared."""

import json
import os
from pathlib import Path


def folder() -> Path:
  """Where the reference values are: CORDA_GOLDEN_DIR, or this folder."""
  return Path(os.environ.get("CORDA_GOLDEN_DIR") or Path(__file__).parent)


def files(kind: str) -> list[Path]:
  """Every `KIND*.npz` of the folder."""
  return sorted(folder().glob(f"{kind}*.npz"))


def released_shapes(network: str) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the tensors of a released checkpoint; `network`: "gta" or "synthia"."""
  name = f"state_dict_{network}.json"
  path = folder() / name
  path = path if path.exists() else Path(__file__).parent / name
  return {tensor: tuple(shape) for tensor, shape in json.loads(path.read_text())}
