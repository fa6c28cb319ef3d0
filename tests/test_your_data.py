"""Another class list through the whole program, on files that only a configuration describes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import your_data
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines.street_world import domains, write
from tests.command import arguments, refused, run
from tests.stub_network import stubs_for_networks

NAMES = tuple(your_data.CLASSES)


def own(folder, **options):
  roots = {f"data__{domain}__root": folder / domain for domain in ("source", "target")}
  return arguments(folder, config="configs/your_data.py", **(roots | options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A folder where a whole run of seven classes has ended."""
  folder = tmp_path_factory.mktemp("mine")
  for name, domain in (("source", domains.SYNTHETIC), ("target", domains.REAL)):
    write.write_folder(
      folder / name, train_frames=3, validation_frames=3, seed=0, height=32, width=64,
      domain=domain, processes=1, progress=False,
    )  # fmt: skip
  prepared = run(own(folder, mode="prepare"))
  assert len(list(folder.glob("records/folder/*/*/metadata.json"))) == 3
  assert prepared.stdout.count("train: 3 of 3 frames") == 2
  assert prepared.stdout.count("validation: 3 of 3 frames") == 1
  assert not (folder / "run").exists()
  with stubs_for_networks():
    return folder, run(own(folder))


def test_seven_classes_from_files_to_pictures(finished):
  folder, result = finished
  scores = json.loads((folder / "run" / "results.json").read_text())
  assert tuple(scores["iou"]) == NAMES
  assert set(scores["miou_by_classes"]) == {"all", "things"}
  assert scores["class_sets"]["things"] == ["human", "vehicle"]
  assert scores["frames"] == 3
  printed = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
  start = printed.index("class") + 1
  assert tuple(printed[start : start + 7]) == NAMES
  assert "over 7 classes" in result.stdout
  assert "over 2 classes (things)" in result.stdout
  colors = ClassList.from_config({"names": NAMES, "colors": ()}).colors
  (sheet,) = (folder / "run" / "pictures").iterdir()
  pixels = np.asarray(Image.open(sheet).convert("RGB"))
  for color in colors:  # in the legend
    assert (pixels == color).all(-1).any()
  curves = b"".join(path.read_bytes() for path in (folder / "run/tensorboard").iterdir())
  assert b"iou/structure" in curves
  assert b"iou/building" not in curves


def test_a_run_keeps_its_classes(finished):
  folder, _ = finished
  with stubs_for_networks():
    run(own(folder, mode="evaluate", evaluation__classes="things"))
  evaluation = json.loads((folder / "run" / "evaluation.json").read_text())
  trained = json.loads((folder / "run" / "results.json").read_text())
  assert evaluation["miou"] == evaluation["miou_by_classes"]["things"]
  assert evaluation["miou_by_classes"] == trained["miou_by_classes"]
  assert evaluation["iou"] == trained["iou"]
  swapped = repr((NAMES[1], NAMES[0], *NAMES[2:]))
  for mode in ("train", "evaluate"):
    refused(own(folder, mode=mode, data__classes__names=swapped), "data.classes.names")


def test_the_configurations_of_the_page_can_be_built():
  """Each is a file that the page gives to save."""
  page = (Path(__file__).parents[1] / "docs" / "your_data.md").read_text()
  blocks = re.findall(r'```python\n(""".*?)```', page, re.DOTALL)
  assert len(blocks) == 3
  for block in blocks:
    made = {}
    exec(block, made)
    config = made["get_config"]()
    kind = DepthTask if config.task == "depth" else AdaptationTask
    task = kind.from_config(config)
    assert task.state_shapes.params
    task.check_training()
  assert made["get_config"]().data.target.depth == "inverse_png16"


def test_a_class_that_a_known_data_set_lacks(tmp_path):
  fields = {"data__classes__names": "('road','tram')", "data__street_world__enabled": False}
  refused(arguments(tmp_path, **fields), "tram", "GTA5", "sidewalk")
  assert not list(tmp_path.glob("records/*"))


def test_the_number_of_classes_is_no_field(tmp_path):
  refused(arguments(tmp_path, model__num_classes=7), "num_classes")
  config = your_data.get_config()
  config.model.num_classes = 7
  with pytest.raises(UserError, match=r"model\.num_classes.*remove"):
    AdaptationTask.from_config(config)


def test_labels_that_are_needed(tmp_path):
  labels = {"data__source__folder__train__labels": ""}
  refused(own(tmp_path, **labels), "data.source.folder.train.labels")
  images = {"data__target__folder__validation__images": ""}
  refused(own(tmp_path, **images), "data.target.folder.validation.images")
