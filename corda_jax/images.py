"""Reads pictures as 8-bit RGB, upright.

Pillow is imported where it is used: training needs none.
"""

import contextlib
import functools
import warnings
from typing import BinaryIO, NamedTuple

import numpy as np

# What Pillow reads as pictures of its own accord, by its names; not documents, films and plots.
_FORMATS = (
  *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI"),
  *("TGA", "TIFF", "WEBP"),
)
_ONE_PICTURE = ("MPO",)  # of phones: the picture, then maps of its brightness or depth
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
CONVERT_HEIC = "convert HEIC to JPEG, as by `magick mogrify -format jpg *.heic`"


class ImageError(Exception):
  """A picture cannot be read; the text says why, without its name."""


class Picture(NamedTuple):
  """What was read.

  Attributes:
    rgb: uint8 [H, W, 3], upright as the file says (EXIF).
    pages: pictures in the file, of which this is the first.
  """

  rgb: np.ndarray
  pages: int

  @property
  def note(self) -> str:
    """Which of several pictures in its file it is; "" of a single one."""
    return f"the first of its {self.pages} pictures is taken" if self.pages > 1 else ""


@functools.cache
def image_suffixes() -> frozenset[str]:
  """Suffixes of the files that `read_image` reads, in small letters."""
  from PIL import Image

  suffixes = {ending for ending, name in Image.registered_extensions().items() if name in _FORMATS}
  return frozenset(suffixes - {".pfm"})  # which is depth


@functools.cache
def _formats() -> list[str]:
  """Those of `_FORMATS` that this build of Pillow has; large images are allowed from here on."""
  from PIL import Image

  Image.init()
  warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
  return [name for name in _FORMATS if name in Image.OPEN]


def read_image(file: BinaryIO) -> Picture:
  """Reads a picture.

  Raises:
    ImageError: it is damaged, of more than 8 bits a channel, of a format that is not read, or
      larger than Pillow's limit of some 179 million pixels, which keeps small files from filling
      the memory.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  try:
    with Image.open(file, formats=_formats()) as image:
      if image.mode.startswith(("I", "F")):  # Pillow would cut its values off at 255
        raise ImageError(f"is a picture of mode {image.mode}, expected 8 bits a channel")
      rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
      pages = 1
      if image.format not in _ONE_PICTURE:
        with contextlib.suppress(Exception):  # of others, which are not read, some may be damaged
          pages = getattr(image, "n_frames", 1)
      return Picture(rgb, pages)
  except ImageError:
    raise
  except UnidentifiedImageError as error:  # whose text has an address in memory
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS:
      raise ImageError(f"is HEIC, which is not read: {CONVERT_HEIC}") from error
    raise ImageError("cannot be decoded: it is no picture of a format that is read") from error
  except Image.DecompressionBombError as error:
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    raise ImageError(f"has more than {most:,} pixels: cut it into pieces") from error
  except MemoryError as error:
    raise ImageError("needs more memory than there is: its header may be damaged") from error
  except Exception as error:  # Pillow's readers raise what they please at a damaged file
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ImageError(f"cannot be decoded: {reason}") from error
