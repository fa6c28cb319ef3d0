"""A self-contained HTML page about a run: scores, curves, pictures, provenance."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corda_jax.configuration import flatten
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from corda_jax.training.history import read_history
from corda_jax.training.report_page import PAGE
from corda_jax.training.run_files import read_json, write_text

NAME = "report.html"
_MOST_SHEETS = 4  # newest contact sheets shown of each kind

# Figures: title, prefixes of the names of its curves, whether the axis is logarithmic.
_FIGURES = (
  ("Target mIoU, %", ("target/miou",), False),
  ("Depth heads: errors", ("target/depth_",), False),
  ("Depth: errors", ("depth/",), False),
  ("Loss", ("train/total",), True),
  (
    "Losses by term",
    ("train/ce_", "train/berhu_", "train/photometric", "train/feature_distance"),
    True,
  ),
  ("Confident fraction, depth weight", ("train/confident_fraction", "train/depth_weight"), False),
  ("Norm of the gradients", ("train/gradient_norm",), True),
  ("Learning rates", ("learning_rate",), False),
  ("Images a second", ("train/images_per_second",), False),
  ("Waiting for data, seconds a step", ("train/data_wait",), False),
  ("Steps not applied", ("train/skipped",), False),
)

Curves = dict[str, tuple[list[int], list[float]]]


def write_report(workdir: Path, config: Mapping[str, Any]) -> Path:
  """Writes `workdir/report.html`, a self-contained page built from the files of the run.

  Args:
    workdir: folder of a run, finished or not.
    config: configuration shown if the folder has no `config.json`.

  Returns:
    Path of the page.

  Raises:
    UserError: the folder has no history.
  """
  workdir = Path(workdir)
  history = read_history(workdir)
  if not history:
    raise UserError(f"{workdir} holds no history of a run: train there first")
  run = read_json(workdir / "config.json") or dict(config)
  results = [entry for entry in history if "result" in entry]
  last = results[-1] if results else None
  best = max(
    (entry for entry in results if isinstance(entry.get("score"), int | float)),
    key=lambda entry: entry["score"],
    default=None,
  )
  curves = _curves(history)
  parts = [
    _cards(workdir, history, run, (last, best)),
    _section("Scores", _scores(last, best, run)),
    _section("Curves", _figures(curves)),
    _section("Pictures", _pictures(workdir)),
    _section("How it was made", _provenance(workdir, run)),
  ]
  title = html.escape(workdir.resolve().name)
  page = PAGE.replace("{{title}}", title).replace("{{body}}", "\n".join(filter(None, parts)))
  write_text(workdir / NAME, page)
  return workdir / NAME


def _curves(history: Sequence[Mapping[str, Any]]) -> Curves:
  found: Curves = {}
  for entry in history:
    for name, value in (entry.get("curves") or {}).items():
      if isinstance(value, int | float):
        steps, values = found.setdefault(name, ([], []))
        steps.append(entry["step"])
        values.append(value)
  return found


def _section(title: str, body: str) -> str:
  return f"<section><h2>{title}</h2>\n{body}</section>" if body else ""


def _cards(workdir, history, run, evaluations) -> str:
  last, best = evaluations
  step, total = history[-1]["step"], run.get("num_steps")
  cards = [("steps", f"{step:,} of {total:,}" if isinstance(total, int) else f"{step:,}")]
  for name, entry in (("last", last), ("best", best)):
    if entry is not None and isinstance(entry["result"].get("miou"), int | float):
      classes = len(entry["result"]["class_sets"][entry["result"]["classes"]])
      words = f"mIoU, {name}, step {entry['step']:,}, {classes} classes"
      cards.append((words, f"{entry['result']['miou']:.1f} %"))
  if last is not None and "abs_rel" in last["result"]:
    cards.append((f"abs rel, step {last['step']:,}", f"{last['result']['abs_rel']:.3f}"))
  skipped = sum((entry.get("curves") or {}).get("train/skipped") or 0 for entry in history)
  cards.append(("steps not applied", f"{skipped:.0f}"))
  diverged = read_json(workdir / "diverged.json")
  if diverged is not None:
    cards.append(("ended", "diverged"))
  inner = "".join(
    f"<div class='card'><b>{html.escape(value)}</b><span>{html.escape(words)}</span></div>"
    for words, value in cards
  )
  return f"<div class='cards'>{inner}</div>"


def _scores(last, best, run) -> str:
  if last is None:
    return "<p>No evaluation yet.</p>"
  if "iou" not in last["result"]:
    numbers = {k: v for k, v in last["result"].items() if isinstance(v, int | float)}
    return _table(("", f"step {last['step']:,}"), [(k, f"{v:.4g}") for k, v in numbers.items()])
  colors = _colors(run, last["result"]["iou"])
  columns = [("last", last)] + ([("best", best)] if best and best["step"] != last["step"] else [])
  counted = set(last["result"]["class_sets"][last["result"]["classes"]])
  rows = []
  for name in last["result"]["iou"]:
    swatch = f"<i class='swatch' style='background:rgb{colors[name]}'></i>"
    note = "" if name in counted else " <small>not in the mean</small>"
    cells = [swatch + html.escape(name) + note]
    for _, entry in columns:
      cells.append(_bar(entry["result"]["iou"].get(name), colors[name]))
    rows.append(cells)
  mean = ["<b>mean</b>", *(_bar(entry["result"]["miou"], (90, 90, 90)) for _, entry in columns)]
  head = ["class", *(f"IoU %, {name}: step {entry['step']:,}" for name, entry in columns)]
  protocol = last["result"]
  size = "x".join(map(str, reversed(protocol.get("input_size", []))))
  summary = (
    f"{protocol.get('frames', '?')} frames of the target's validation set, "
    f"{protocol.get('network', '?')}, input {size}, labels of the "
    f"{protocol.get('label_size', '?')}'s size."
  )
  return f"<p>{html.escape(summary)}</p>" + _table(head, [*rows, mean], raw=True)


def _colors(run, names) -> dict[str, tuple[int, int, int]]:
  try:
    classes = ClassList.from_config(run["data"]["classes"])
    return dict(zip(classes.names, classes.colors, strict=True)) | {
      name: (120, 120, 120) for name in names if name not in classes.names
    }
  except (KeyError, TypeError, UserError):
    return dict.fromkeys(names, (120, 120, 120))


def _bar(value, color) -> str:
  if not isinstance(value, int | float):
    return "–"
  return (
    f"<span class='number'>{value:.1f}</span><span class='bar'>"
    f"<i style='width:{min(max(value, 0), 100):.1f}%;background:rgb{tuple(color)}'></i></span>"
  )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, raw: bool = False) -> str:
  escape = (lambda cell: cell) if raw else html.escape
  lines = ["<table><tr>", *(f"<th>{html.escape(cell)}</th>" for cell in head), "</tr>"]
  for row in rows:
    lines += ["<tr>", *(f"<td>{escape(cell)}</td>" for cell in row), "</tr>"]
  return "".join([*lines, "</table>\n"])


def _figures(curves: Curves) -> str:
  drawn = []
  for title, expected, logarithmic in _FIGURES:
    chosen = {name: curve for name, curve in curves.items() if name.startswith(expected)}
    if any(any(values) for _, values in chosen.values()):  # skip figures whose values are all zero
      picture = _draw(title, chosen, logarithmic)
      drawn.append(f"<img alt='{title}' src='data:image/svg+xml;base64,{picture}'>")
  shown = tuple(prefix for _, prefixes, _ in _FIGURES for prefix in prefixes)
  others = {n: c for n, c in curves.items() if not n.startswith((*shown, "iou/"))}
  for name, curve in others.items():  # curves of other methods
    picture = _draw(name, {name: curve}, False)
    alt = html.escape(name, quote=True)
    drawn.append(f"<img alt='{alt}' src='data:image/svg+xml;base64,{picture}'>")
  by_class = {name: curve for name, curve in curves.items() if name.startswith("iou/")}
  if by_class:
    picture = _draw("IoU by class, %", by_class, False, wide=True)
    drawn.append(f"<img class='wide' alt='IoU by class' src='data:image/svg+xml;base64,{picture}'>")
  return f"<div class='figures'>{''.join(drawn)}</div>" if drawn else ""


def _draw(title: str, curves: Curves, logarithmic: bool, *, wide: bool = False) -> str:
  """A figure as SVG, in base64."""
  from matplotlib import colormaps, rc_context
  from matplotlib.figure import Figure
  from matplotlib.ticker import FuncFormatter, NullFormatter

  with rc_context(
    {"svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "svg.hashsalt": title}
  ):
    figure = Figure(figsize=(9.6 if wide else 4.8, 3.6 if wide else 3.0), layout="constrained")
    axis = figure.subplots()
    colors = colormaps["tab20" if len(curves) > 10 else "tab10"].colors
    for number, (name, (steps, values)) in enumerate(sorted(curves.items())):
      label = name.rpartition("/")[2]
      marker = "o" if len(steps) < 15 else ""
      color = colors[number % len(colors)]
      axis.plot(steps, values, label=label, marker=marker, markersize=3, linewidth=1.3, color=color)
    every = [value for _, values in curves.values() for value in values]
    if logarithmic and min(every) > 0:
      axis.set_yscale("log")
      plain = FuncFormatter(lambda value, _: f"{value:g}")
      axis.yaxis.set_major_formatter(plain)
      axis.yaxis.set_minor_formatter(plain if max(every) < 10 * min(every) else NullFormatter())
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("step")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(curves) > 10:
      figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    elif len(curves) > 1:
      figure.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
  return base64.b64encode(written.getvalue().encode()).decode()


def _pictures(workdir: Path) -> str:
  sheets = sorted((workdir / "pictures").glob("*.png"))
  kinds: dict[str, list[Path]] = {}
  for sheet in sheets:
    kinds.setdefault(sheet.stem.rpartition("_step_")[0], []).append(sheet)
  shown = []
  for kind in sorted(kinds, key=lambda kind: (kind == "train", kind)):
    newest = kinds[kind][-_MOST_SHEETS:][::-1]
    for number, sheet in enumerate(newest):
      picture = base64.b64encode(sheet.read_bytes()).decode()
      image = f"<img alt='{html.escape(sheet.name)}' src='data:image/png;base64,{picture}'>"
      opened = " open" if number == 0 else ""
      shown.append(
        f"<details{opened}><summary>{html.escape(sheet.stem.replace('_', ' '))}</summary>"
        f"{image}</details>"
      )
  return "".join(shown)


def _provenance(workdir: Path, run: Mapping[str, Any]) -> str:
  code = (read_json(workdir / "code.json") or {}).get("code") or []
  rows = []
  for entry in code:
    if isinstance(entry, dict):
      named = [f"{name} {value}" for name, value in entry.items() if value and name != "from_step"]
      rows.append((str(entry.get("from_step", "?")), ", ".join(named)))
  table = _table(("from step", "code"), rows) if rows else ""
  settings = [(name, json.dumps(value)) for name, value in sorted(flatten(run).items())]
  return table + (
    f"<details><summary>configuration, {len(settings)} values</summary>"
    f"{_table(('field', 'value'), settings)}</details>"
  )
