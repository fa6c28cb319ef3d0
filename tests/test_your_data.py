"""Another class list through the whole program, on files that only a configuration describes."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import your_data
from corda_jax.errors import UserError
from corda_jax.jobs.experiment import Experiment
from corda_jax.labels import ClassList
from data_pipelines.street_world import domains, write
from tests.test_main import assert_one_line, command, run

NAMES = tuple(your_data.CLASSES)


def own(folder, **options):
  roots = {f"data__{domain}__root": folder / domain for domain in ("source", "target")}
  return run(command(folder, config="configs/your_data.py", **(roots | options)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A folder where a whole run of seven classes has ended."""
  folder = tmp_path_factory.mktemp("mine")
  for name, domain in (("source", domains.SYNTHETIC), ("target", domains.REAL)):
    write.write_folder(
      folder / name, train_frames=3, validation_frames=3, seed=0, height=32, width=64,
      domain=domain, processes=1, progress=False,
    )  # fmt: skip
  result = own(folder, mode="prepare")
  assert result.returncode == 0, result.stderr
  assert len(list(folder.glob("records/folder/*/*/preparation.json"))) == 2
  assert result.stdout.count("train: 3 of 3 frames kept") == 2
  assert result.stdout.count("validation: 3 of 3 frames kept") == 1
  assert not (folder / "run").exists()
  result = own(folder)
  assert result.returncode == 0, result.stderr
  return folder, result


@pytest.mark.long
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


@pytest.mark.long
def test_a_run_keeps_its_classes(finished):
  folder, _ = finished
  result = own(folder, mode="evaluate", evaluation__classes="things")
  assert result.returncode == 0, result.stderr
  evaluation = json.loads((folder / "run" / "evaluation.json").read_text())
  trained = json.loads((folder / "run" / "results.json").read_text())
  assert evaluation["miou"] == evaluation["miou_by_classes"]["things"]
  assert evaluation["miou_by_classes"] == trained["miou_by_classes"]
  assert evaluation["iou"] == trained["iou"]
  swapped = repr((NAMES[1], NAMES[0], *NAMES[2:]))
  for mode in ("train", "evaluate"):
    result = own(folder, mode=mode, data__classes__names=swapped)
    assert_one_line(result, "another configuration: data.classes.names", "choose another")


def test_a_class_that_a_known_data_set_lacks(tmp_path):
  arguments = command(tmp_path, data__classes__names="('road','tram')")
  arguments.append("--config.data.street_world.enabled=False")
  assert_one_line(run(arguments), "'tram', which GTA5 does not label, wanted some of: road, side")
  assert not list(tmp_path.glob("records/*"))


def test_the_number_of_classes_is_no_field(tmp_path):
  assert_one_line(run(command(tmp_path, model__num_classes=7)), "unknown", "num_classes")
  config = your_data.get_config()
  config.model.num_classes = 7
  with pytest.raises(UserError, match=r"that of data.classes.names: remove it"):
    Experiment.from_config(config)


def test_labels_that_are_needed(tmp_path):
  told = "data.source.folder.train.labels is '', but the source's labels are what"
  assert_one_line(own(tmp_path, data__source__folder__train__labels=""), told)
  told = "data.target.folder.validation.images is '', but scores need frames with labels"
  assert_one_line(own(tmp_path, data__target__folder__validation__images=""), told)
