"""Reads pictures as 8-bit RGB, upright.

Pillow is imported where it is used, since training does not need it.
"""

import contextlib
import functools
import warnings
from typing import BinaryIO, NamedTuple

import numpy as np

# Picture formats that Pillow reads by itself, by its names; not documents, films and plots.
_FORMATS = (
  *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI"),
  *("TGA", "TIFF", "WEBP"),
)
_ONE_PICTURE = ("MPO",)  # from phones: the picture, then maps of its brightness or depth
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
CONVERT_HEIC = "convert HEIC to JPEG, as by `magick mogrify -format jpg *.heic`"


class ImageError(Exception):
  """A picture cannot be read; the message is the reason, without the name of the file."""


class Picture(NamedTuple):
  """A picture that was read.

  Attributes:
    rgb: uint8 [H, W, 3], rotated upright according to EXIF.
    pages: number of pictures in the file; this is the first.
  """

  rgb: np.ndarray
  pages: int

  @property
  def note(self) -> str:
    """Note that the file has several pictures; "" for a single one."""
    return f"the first of its {self.pages} pictures is used" if self.pages > 1 else ""


@functools.cache
def image_suffixes() -> frozenset[str]:
  """Suffixes of the files that `read_image` reads, in lower case."""
  from PIL import Image

  suffixes = {ending for ending, name in Image.registered_extensions().items() if name in _FORMATS}
  return frozenset(suffixes - {".pfm"})  # it holds depth


@functools.cache
def _formats() -> list[str]:
  """Those of `_FORMATS` that this build of Pillow reads; also disables its size warning."""
  from PIL import Image

  Image.init()
  warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
  return [name for name in _FORMATS if name in Image.OPEN]


def read_image(file: BinaryIO) -> Picture:
  """Reads a picture.

  Raises:
    ImageError: it is damaged, has more than 8 bits per channel, has an unsupported format, or is
      larger than Pillow's limit of about 179 million pixels, which protects against small files
      that decode to huge images.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  try:
    with Image.open(file, formats=_formats()) as image:
      if image.mode.startswith(("I", "F")):  # Pillow would clip its values at 255
        raise ImageError(f"is a picture of mode {image.mode}, expected 8 bits a channel")
      rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
      pages = 1
      if image.format not in _ONE_PICTURE:
        with contextlib.suppress(Exception):  # other pages, which are not read, may be damaged
          pages = getattr(image, "n_frames", 1)
      return Picture(rgb, pages)
  except ImageError:
    raise
  except UnidentifiedImageError as error:  # its message has a memory address
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS:
      raise ImageError(f"is HEIC, which is not read: {CONVERT_HEIC}") from error
    raise ImageError("cannot be decoded: it is no picture of a format that is read") from error
  except Image.DecompressionBombError as error:
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    raise ImageError(f"has more than {most:,} pixels: cut it into pieces") from error
  except MemoryError as error:
    raise ImageError("needs more memory than is available: its header may be damaged") from error
  except Exception as error:  # Pillow's readers raise any error for a damaged file
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ImageError(f"cannot be decoded: {reason}") from error
