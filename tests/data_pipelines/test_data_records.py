import pytest
import tensorflow as tf

from data_pipelines.records import parse


def serialize(**features):
  wrapped = {
    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    for name, values in features.items()
  }
  return tf.train.Example(features=tf.train.Features(feature=wrapped)).SerializeToString()


# Lengths that take one, two, three and four bytes to write down.
@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 16384, 2**21 - 1, 2**21 + 5])
def test_parsing_gives_what_was_serialized(length):
  content = bytes(range(256)) * (length // 256 + 1)
  serialized = serialize(name=[b"aachen"], image=[content[:length]], label=[b"\0\x0a"])
  parsed = {name: bytes(value) for name, value in parse(serialized).items()}
  assert parsed == {"name": b"aachen", "image": content[:length], "label": b"\0\x0a"}


@pytest.mark.parametrize(
  "serialized",
  [
    serialize(image=[b"a", b"b"]),
    tf.train.Features(feature={}).SerializeToString(),
    b"\x08\x01",
  ],
)
def test_other_messages_are_refused(serialized):
  with pytest.raises(ValueError):
    parse(serialized)
