"""The page of a run: what stands in it, and that a browser shows it."""

import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from corda_jax.adaptation.scores import scores
from corda_jax.errors import UserError
from corda_jax.training.history import History, read_history
from corda_jax.training.report import write_report
from corda_jax.training.run_files import record_config
from tests import tiny

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(html.parser.HTMLParser):
  """Text and links of a page; fails where elements do not match."""

  VOID = ("meta", "img", "br", "link")

  def __init__(self, text):
    super().__init__()
    self.open, self.texts, self.sources = [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.sources += [attributes[name] for name in ("src", "href") if name in attributes]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data.strip())


@pytest.fixture
def workdir(tmp_path, random):
  workdir = tmp_path / "run <b>&"
  workdir.mkdir()
  config = tiny.get_config(num_steps=400)
  record_config(workdir, config.to_dict())
  history = History(workdir)
  for step in range(10, 301, 10):
    curves = {
      "train/entropy $_{": 3.0,
      "train/total": 5 / step,
      "train/ce_src": 2 / step,
      "learning_rate/encoder": 1e-3,
    }
    history.add_curves(step, curves | {"train/skipped": float(step == 20)})
  for step, spread in ((100, 40), (200, 80), (300, 60)):
    confusion = random.randint(0, 5, (19, 19)) + spread * np.eye(19, dtype=int)
    confusion[18] = confusion[:, 18] = 0  # a class that is nowhere
    result = {"step": step, "network": "student", "input_size": [17, 25], "label_size": "file"}
    result |= {"frames": 8, **scores(confusion, "all")}
    history.add_evaluation(step, result["miou"], result, {"target/miou": result["miou"]})
  (workdir / "pictures").mkdir()
  for name in ("student_step_000300", "train_step_000100", "train_step_000200"):
    Image.fromarray(random.randint(0, 256, (30, 40, 3)).astype(np.uint8)).save(
      workdir / "pictures" / f"{name}.png"
    )
  return workdir


def test_a_page_says_of_the_run_and_loads_nothing(workdir):
  path = write_report(workdir, {})
  page = Page(path.read_text())
  assert page.sources
  assert all(source.startswith("data:image/") for source in page.sources)
  assert "url(" not in path.read_text()
  text = " ".join(page.texts)
  results = [entry["result"] for entry in read_history(workdir) if "result" in entry]
  assert f"{results[2]['miou']:.1f} %" in text
  assert f"{results[1]['miou']:.1f} %" in text  # the best
  for name in ("road", "traffic light"):
    assert name in text
    assert f"{results[2]['iou'][name]:.1f}" in text
    assert f"<i style='width:{results[2]['iou'][name]:.1f}%;" in path.read_text()
  assert re.search(r"300\D+400", text)
  assert "run <b>&" in text
  assert "data.batch_size" in text
  assert "student step 000300" in text
  svg = sum(source.startswith("data:image/svg") for source in page.sources)
  assert svg == 6  # mIoU, loss, terms, rates, skipped, and one that no figure asks for


def test_a_run_of_the_depth_stage_and_one_that_was_not_evaluated(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path}.*history"):
    write_report(tmp_path, {})
  History(tmp_path).add_curves(5, {"train/total": 1.0})
  page = write_report(tmp_path, {"num_steps": 7}).read_text()
  assert re.search("(?i)no evaluation", page)
  History(tmp_path).add_evaluation(5, -0.2, {"step": 5, "abs_rel": 0.2, "rmse": 4.5}, {})
  text = " ".join(Page(write_report(tmp_path, {"num_steps": 7}).read_text()).texts)
  assert re.search(r"abs_rel\s+0\.2\b", text)
  assert "0.200" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_opens_it_from_the_disk(workdir, tmp_path):
  path = write_report(workdir, {})
  options = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"),
  )
  probe = path.with_name("probe.html")
  # Counts pictures that were drawn, and what stands out of the window's width.
  script = (
    "<script>addEventListener('load', () => { const all = [...document.images];"
    "document.body.dataset.reported = [all.length, all.filter(i => i.naturalWidth > 0).length,"
    "document.documentElement.scrollWidth <= innerWidth].join(); });</script>"
  )
  probe.write_text(path.read_text().replace("</body>", script + "</body>"))
  dom = subprocess.run(
    [CHROMIUM, *options, "--window-size=900,1200", "--dump-dom", probe.as_uri()],
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  ).stdout
  images, drawn, fits = re.search(r'data-reported="(\d+),(\d+),(\w+)"', dom).groups()
  assert images == drawn == "9"
  assert fits == "true"
