"""Pickles read as data, by a machine that calls nothing a file names.

`pickle.Unpickler` does what a file tells it to; even with an allow-list it calls methods of what it
has built and allocates what a file asks for. Here every opcode that weights need is spelled out,
and any other ends the reading. The opcodes are those of the standard library's `pickletools`.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, Protocol


class RefusedGlobal(Exception):
  """A pickle names something that is not allowed; the argument is its full name."""


class Function(NamedTuple):
  """What an allowed name stands for where a pickle may call it."""

  call: Callable[..., Any]


class Stateful:
  """What a pickle may give a state after it was built."""

  def set_state(self, state: Any) -> None:
    """Takes the state, or raises ValueError."""
    raise NotImplementedError


class Readable(Protocol):
  """The two methods of a binary file that reading a pickle takes."""

  def read(self, count: int, /) -> bytes:
    """At most `count` bytes."""

  def readline(self) -> bytes:
    """Bytes up to and with the next line feed."""


# Opcodes whose argument is the value.
_LITERALS = {
  *("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
  *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
  *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def load(
  file: Readable | BinaryIO,
  allowed: Mapping[str, Any],
  load_persistent: Callable[[Any], Any] | None = None,
) -> Any:
  """Reads one pickle, and leaves the file behind it.

  Args:
    file: at the start of the pickle.
    allowed: full name, such as "torch.Size" → what stands for it; a `Function` if the pickle may
      call it.
    load_persistent: what a pickle keeps outside itself, from the id that it has inside; None: it
      keeps nothing.

  Returns:
    Dicts (for ordered ones too), lists, tuples, scalars, strings, bytes, and what `allowed` and
    `load_persistent` gave.

  Raises:
    RefusedGlobal: it names something else.
    ValueError, LookupError, TypeError or another exception of malformed data: it is damaged.
  """
  stack: list[Any] = []
  outer: list[list[Any]] = []  # the stacks below each mark
  memo: dict[int, Any] = {}

  def since_mark() -> list[Any]:
    nonlocal stack
    items, stack = stack, outer.pop()
    return items

  for opcode, argument, _ in pickletools.genops(file):
    name = opcode.name
    if name in _LITERALS:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
      memo[argument] = stack[-1]
    elif name == "MEMOIZE":
      memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
      stack.append(memo[argument])
    elif name == "MARK":
      outer.append(stack)
      stack = []
    elif name in ("TUPLE", "LIST", "DICT"):
      items = since_mark()
      stack.append({"TUPLE": tuple, "LIST": list, "DICT": _pairs}[name](items))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
      items = [stack.pop() for _ in range(int(name[-1]))]
      stack.append(tuple(reversed(items)))
    elif name in ("EMPTY_LIST", "EMPTY_DICT"):
      stack.append([] if name == "EMPTY_LIST" else {})
    elif name in ("APPEND", "APPENDS"):
      items = [stack.pop()] if name == "APPEND" else since_mark()
      expect(stack[-1], list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
      items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else since_mark()
      expect(stack[-1], dict).update(_pairs(items))
    elif name == "GLOBAL":
      stack.append(_allowed(allowed, argument.replace(" ", ".", 1)))
    elif name == "STACK_GLOBAL":
      attribute, module = stack.pop(), stack.pop()
      stack.append(_allowed(allowed, f"{expect(module, str)}.{expect(attribute, str)}"))
    elif name in ("REDUCE", "NEWOBJ"):
      arguments, function = expect(stack.pop(), tuple), expect(stack.pop(), Function)
      stack.append(function.call(*arguments))
    elif name == "BUILD":
      state = stack.pop()
      if not isinstance(stack[-1], dict):  # PyTorch's `_metadata` of a state dict is not needed
        expect(stack[-1], Stateful).set_state(state)
    elif name == "BINPERSID" and load_persistent is not None:
      stack.append(load_persistent(stack.pop()))
    elif name == "POP":
      stack.pop()
    elif name == "POP_MARK":
      since_mark()
    elif name == "DUP":
      stack.append(stack[-1])
    elif name == "STOP":
      return stack.pop()
    elif name not in ("PROTO", "FRAME"):
      raise ValueError(f"pickle opcode {name}")
  raise ValueError("a pickle without end")


def _allowed(allowed: Mapping[str, Any], name: str) -> Any:
  if name not in allowed:
    raise RefusedGlobal(name)
  return allowed[name]


def expect(value: Any, *kinds: type) -> Any:
  """`value`, if it is of one of these types; otherwise raises ValueError.

  What a file gives is never compared, hashed or shown before this: values that contain each other
  many times over can make that endless.
  """
  if not isinstance(value, kinds):
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"a pickle with {type(value).__name__} where {wanted} belongs")
  return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
  for key in items[::2]:
    expect(key, str, int, float, bytes, type(None))
  return dict(zip(items[::2], items[1::2], strict=True))
