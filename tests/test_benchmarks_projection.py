"""The projection to many chips is the arithmetic that docs/scaling.md states."""

import pytest

from benchmarks.projection import Chip, gradient_seconds, message_seconds, table
from tests.test_main import ROOT

# Eight chips a machine; numbers that can be followed by hand.
CHIP = Chip("chip", 1e12, wire=100.0, latency=2.0, machine=8, card=10.0, far_latency=5.0)
TORUS = Chip("torus", 1e12, wire=100.0, latency=2.0)


def test_within_a_machine_gradients_take_one_ring():
  assert gradient_seconds(800.0, CHIP, 8) == pytest.approx(2 * 800 * 7 / 8 / 100)
  assert gradient_seconds(800.0, CHIP, 4) == pytest.approx(2 * 800 * 3 / 4 / 100)
  assert gradient_seconds(800.0, CHIP, 1) == 0
  assert gradient_seconds(800.0, TORUS, 64) == pytest.approx(2 * 800 * 63 / 64 / 100)


def test_between_machines_each_card_carries_its_share_alone():
  # The sum of a machine, 14 s; then 100 bytes by each card, around a ring of 4 machines.
  assert gradient_seconds(800.0, CHIP, 32) == pytest.approx(14 + 2 * 100 * 3 / 4 / 10)


def test_chips_fill_machines():
  with pytest.raises(ValueError, match="12 chips do not fill machines of 8"):
    gradient_seconds(800.0, CHIP, 12)


def test_messages_wait_longer_between_machines():
  assert message_seconds(3, CHIP, 8) == 3 * 2
  assert message_seconds(3, CHIP, 16) == 3 * 5
  assert message_seconds(3, TORUS, 256) == 3 * 2


def test_the_document_has_the_table_that_the_command_prints():
  assert table() in (ROOT / "docs" / "scaling.md").read_text()
