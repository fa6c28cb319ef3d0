import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image


@pytest.fixture
def official_scores(tmp_path, monkeypatch):
  """(predictions, truth), uint8 [N, H, W] of label ids → what the benchmark's own scripts find."""
  # The instance part needs a function that NumPy no longer has.
  for name, value in (("evalInstLevelScore", False), ("JSONOutput", False), ("quiet", True)):
    monkeypatch.setattr(official.args, name, value)
  monkeypatch.setattr(official.args, "evalLabels", [])  # it fills this in

  def evaluate(predictions, truth):
    files = {"predicted": [], "true": []}
    for kind, maps in (("predicted", predictions), ("true", truth)):
      for number, values in enumerate(maps):
        path = tmp_path / kind / f"bonn_{number:06d}_000019_gtFine_labelIds.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
        files[kind].append(str(path))
    return official.evaluateImgLists(files["predicted"], files["true"], official.args)

  return evaluate
