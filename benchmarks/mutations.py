"""Makes malformed inputs from good ones."""

import copy
import json
import random
import string
from typing import Any

_BYTES = (0, 1, 127, 128, 254, 255)
_NUMBERS = ("0", "-1", "1e999", "-1e999", "1e-999", "NaN", "Infinity", "9" * 5_000, "0x10", "01")
_JSON = (None, True, "", "12", [], {}, [1, 2], {"fx": 1}, 0, -5.5, 1e308, float("nan"), 10**400)


def mutate_bytes(contents: bytes, random: random.Random) -> bytes:
  """One to four changes, never none: bits, bytes, lengths; parts cut, doubled, moved, or noise."""
  changed = bytearray(contents)
  for _ in range(random.choice((1, 1, 1, 2, 4))):
    _change(changed, random)
  if changed == contents:
    changed.append(random.randrange(256)) if random.random() < 0.5 else changed.reverse()
  return bytes(changed)


def _change(changed: bytearray, random: random.Random) -> None:
  if not changed:
    changed += random.randbytes(random.randint(1, 30))
    return
  place, other = sorted(random.randrange(len(changed)) for _ in range(2))
  kind = random.randrange(9)
  if kind == 0:
    changed[place] ^= 1 << random.randrange(8)
  elif kind == 1:
    changed[place] = random.choice(_BYTES)
  elif kind == 2:  # a length that is none
    size = random.choice((2, 4, 8))
    changed[place : place + size] = random.choice((b"\xff", b"\x00", b"\x7f")) * size
  elif kind == 3:
    del changed[place : other + 1]
  elif kind == 4:
    del changed[place:]
  elif kind == 5:
    changed[place:place] = changed[place:other]
  elif kind == 6:
    changed[place:other] = random.randbytes(min(other - place, 64))
  elif kind == 7:
    changed[place:place] = random.randbytes(random.randint(1, 64))
  else:
    part = bytes(changed[place:other])
    del changed[place:other]
    where = random.randrange(len(changed) + 1)
    changed[where:where] = part


def mutate_json(value: Any, random: random.Random) -> str:
  """JSON, or almost, with a value exchanged, left out, doubled, or nested deeply."""
  kind = random.randrange(6)
  if kind == 0:
    depth = random.choice((10, 1_000, 100_000))
    return random.choice(("[", '{"a":')) * depth + "1" + random.choice(("", "]" * depth))
  value = copy.deepcopy(value)
  part = random.choice(sorted(value))
  name = random.choice(sorted(value[part]))
  if kind == 1:
    del value[part][name]
  elif kind == 2:
    value[part] = random.choice(_JSON)
  elif kind == 3:
    value[part][name] = random.choice(_JSON)
  text = json.dumps(value)
  if kind == 4:
    number = json.dumps(value[part][name])
    text = text.replace(number, random.choice(_NUMBERS), 1)
  elif kind == 5:
    text = text.replace(f'"{name}"', f'"{name}": {random.choice(_NUMBERS)}, "{name}"', 1)
  return text


def mutate_text(text: str, random: random.Random) -> str:
  """A text with characters exchanged, left out, doubled, or none of that."""
  characters = list(text)
  for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
    place = random.randrange(len(characters) + 1)
    odd = random.choice((*string.printable, "é", "𝟙", "\u202e", "\x00", "'", '"', "(", "\\", "#"))
    kind = random.randrange(4)
    if kind == 0:
      characters[place:place] = odd
    elif kind == 1:
      characters[place : place + 1] = odd
    elif kind == 2:
      del characters[place : place + 1]
    else:
      characters += characters[place:]
  return "".join(characters)
