"""One writer at a time for a folder."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading

import pytest

from corda_jax import locks
from corda_jax.errors import UserError
from corda_jax.locks import only_writer

HOLD = """
import pathlib, sys, time
from corda_jax.locks import only_writer
with only_writer(pathlib.Path(sys.argv[1]), otherwise="wait"):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """A process that holds the lock of a folder."""
  command = [sys.executable, "-c", HOLD, tmp_path / "run/.lock"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()


def test_a_second_writer_is_refused_until_the_first_is_killed(holder, tmp_path):
  path = tmp_path / "run/.lock"
  expected = rf"{path.parent}.*process {holder.pid} on .* since 20\d\d-.*choose another"
  with (
    pytest.raises(UserError, match=expected) as error,
    only_writer(path, otherwise="choose another"),
  ):
    pass
  assert "\n" not in str(error.value)
  holder.kill()
  holder.wait()
  with only_writer(path, otherwise="choose another"):
    assert path.read_text().startswith(f"process {os.getpid()} ")


def test_who_waits_goes_on_when_the_first_ends(holder, tmp_path, caplog):
  def take():
    with only_writer(tmp_path / "run/.lock", otherwise="choose another", wait=True):
      pass

  thread = threading.Thread(target=take)
  thread.start()
  thread.join(0.5)
  assert thread.is_alive()
  holder.kill()
  thread.join(60)
  assert not thread.is_alive()
  assert re.search(rf"process {holder.pid}\b", caplog.text)


def test_a_disk_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
  def flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

  monkeypatch.setattr(locks.fcntl, "flock", flock)
  with only_writer(tmp_path / ".lock", otherwise="choose another"):
    assert re.search(rf"{tmp_path}\b.*no locks", caplog.text)


def test_folders_that_cannot_be_written_are_named(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to(tmp_path / "gone")
  for name, reason in (("file", "exists"), ("file/run", "directory"), ("link", f"{tmp_path}/gone")):
    with (
      pytest.raises(UserError, match=rf"{tmp_path}/{name}\b.*{reason}"),
      only_writer(tmp_path / name / ".lock", otherwise="choose another"),
    ):
      pass


def test_a_full_disk_takes_neither_the_work_nor_its_error(tmp_path):
  """A limit on the size of files stands in for it."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
  try:
    with only_writer(tmp_path / ".lock", otherwise=""):
      pass
    with pytest.raises(UserError, match="make room"), only_writer(tmp_path / ".lock", otherwise=""):
      raise UserError("make room")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EAGAIN])
def test_locks_of_other_disks_are_locks(tmp_path, monkeypatch, error):
  def flock(*_):
    raise OSError(error, os.strerror(error))

  monkeypatch.setattr(locks.fcntl, "flock", flock)
  with pytest.raises(UserError, match="another process"), only_writer(tmp_path / "a", otherwise=""):
    pass
