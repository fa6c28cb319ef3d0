"""Your own data: two plain folders, seven classes, metric depth. Copy this file and change it.

Unchanged, it reads the street world written as plain folders; docs/your_data.md walks through it.

    python -m corda_jax.main --config=configs/your_data.py --workdir=runs/your_data
"""

import ml_collections

from configs import demo

# Class → label ids in the files; several ids may share a class. 0 means no class.
CLASSES = {
  "road": (1,),
  "sidewalk": (2,),
  "structure": (3, 4, 5, 6, 7, 8),  # building, wall, fence, pole, traffic light and sign
  "nature": (9, 10),  # vegetation, terrain
  "sky": (11,),
  "human": (12, 13),  # person, rider
  "vehicle": (14, 15, 16, 17, 18, 19),
}


def get_config() -> ml_collections.ConfigDict:
  """The demo's small network, from random weights, on your folders."""
  config = demo.get_config("as_released")
  config.num_steps = 400
  config.evaluate_every = 400
  config.checkpoint_every = 200

  data = config.data
  data.street_world.enabled = False  # the files exist already
  data.records_dir = "data/mine/records"
  data.classes.names = tuple(CLASSES)
  for domain in ("source", "target"):
    dataset = data[domain]
    dataset.dataset = "folder"
    dataset.root = f"data/mine/{domain}"
    dataset.height, dataset.width = 72, 144  # the working resolution; files may have any
    dataset.depth = "metres_png16"
    folder = dataset.folder
    folder.metres_per_unit = 0.01
    folder.train.images = "train/images/{name}.png"
    folder.train.depth = "train/depth/{name}.png"
    folder.label_classes = ((0, ""),) + tuple(
      (number, name) for name, numbers in CLASSES.items() for number in numbers
    )
  data.source.folder.train.labels = "train/labels/{name}.png"
  data.target.folder.validation.images = "val/images/{name}.png"
  data.target.folder.validation.labels = "val/labels/{name}.png"

  # Sets of classes whose mean is reported beside the mean over all classes.
  config.evaluation.class_sets = {"things": ("human", "vehicle")}
  return config
