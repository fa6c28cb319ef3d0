"""The two domains: how often things occur, what they are made of, what light and camera do to them.

`SYNTHETIC` is a sunny, clean, saturated simulator; `REAL` an overcast, textured, noisy camera on a
car. Layout and geometry are sampled by the same rules, so depth says almost the same about classes
in both domains, while shifted palettes, light, haze and the sensor change what colours mean.
`gap.real_city` moves the look of the second one nearer to the first one's, or farther from it.
"""

import dataclasses
from collections.abc import Mapping

Range = tuple[float, float]
Color = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Domain:
  """Everything in which two domains differ.

  A "range" is a pair of limits; its value is sampled uniformly, once per scene.

  Attributes:
    name: name of the domain.
    focal: focal length over the image's width.
    principal_point: (x, y) over the image's width and height.
    camera_height: range, metres above the road.
    camera_pitch: range, radians below the horizon.
    hood_height: share of the image's rows that the car's own hood reaches at its middle; 0: none.
    objects: expected number of things placed in view, by kind.
    frontage: weights of what lines the sidewalks, by kind.
    verge: probability of a grass strip between road and sidewalk, for each side.
    palette: colours as displayed, 0..1, by material; each thing takes one at random.
    palette_shift: standard deviation of a material's common colour shift in a scene.
    object_shift: standard deviation of a single thing's colour shift.
    texture_contrast: factor on the contrast of every material's texture.
    texture_size: factor on the size of every material's texture.
    sun_elevation: range, radians above the horizon.
    sun_strength: range, share of the light that comes from the sun and not from the sky.
    sun_color: tint of the sun's light.
    sky_color: tint of the sky's light.
    shadow: darkness of the shadows under things, 0..1, in full sun.
    haze_density: range, 1 / metres.
    haze_color: linear colour that distance fades to.
    clouds: cover of the sky by clouds, 0..1.
    exposure: range, stops.
    white_balance: factors on linear R, G, B.
    white_balance_spread: standard deviation of log factors between scenes.
    saturation: factor on the distance of a colour from its grey.
    contrast: slope of the displayed values about 0.45.
    gamma: exponent of the tone curve is 1 / gamma.
    vignetting: loss of light in the image's corners, 0..1.
    blur: standard deviation of the lens's blur, pixels.
    noise: standard deviation of the sensor's noise, displayed values 0..1.
  """

  name: str
  focal: float
  principal_point: tuple[float, float]
  camera_height: Range
  camera_pitch: Range
  hood_height: float
  objects: Mapping[str, float]
  frontage: Mapping[str, float]
  verge: float
  palette: Mapping[str, tuple[Color, ...]]
  palette_shift: float
  object_shift: float
  texture_contrast: float
  texture_size: float
  sun_elevation: Range
  sun_strength: Range
  sun_color: Color
  sky_color: Color
  shadow: float
  haze_density: Range
  haze_color: Color
  clouds: float
  exposure: Range
  white_balance: Color
  white_balance_spread: float
  saturation: float
  contrast: float
  gamma: float
  vignetting: float
  blur: float
  noise: float


_COMMON = {
  "red lamp": ((0.90, 0.12, 0.08),),
  "amber lamp": ((0.92, 0.62, 0.10),),
  "green lamp": ((0.16, 0.86, 0.48),),
  "tail lamp": ((0.62, 0.08, 0.07),),
  "head lamp": ((0.88, 0.88, 0.82),),
  "plate": ((0.84, 0.83, 0.78),),
  "roof": ((0.42, 0.30, 0.27), (0.40, 0.40, 0.41)),
}

SYNTHETIC = Domain(
  name="synthetic",
  focal=1.2063,
  principal_point=(0.5, 0.5),
  camera_height=(1.35, 1.75),
  camera_pitch=(0.0, 0.07),
  hood_height=0.0,
  objects={
    "parked car": 2.4,
    "moving car": 1.1,
    "truck": 0.36,
    "bus": 0.34,
    "train": 0.3,
    "person": 3.2,
    "cyclist": 0.75,
    "motorcyclist": 0.6,
    "bicycle": 0.55,
    "motorcycle": 0.55,
    "signal": 1.3,
    "sign": 1.6,
    "tree": 2.2,
    "bush": 1.0,
    "railing": 0.7,
  },
  frontage={"building": 0.5, "wall": 0.2, "fence": 0.22, "park": 0.11, "hedge": 0.08},
  verge=0.4,
  palette=_COMMON
  | {
    "asphalt": ((0.52, 0.50, 0.47), (0.47, 0.46, 0.45)),
    "paint": ((0.92, 0.90, 0.84), (0.92, 0.82, 0.45)),
    "paving": ((0.74, 0.71, 0.64), (0.68, 0.65, 0.60)),
    "facade": ((0.78, 0.66, 0.50), (0.66, 0.46, 0.36), (0.82, 0.77, 0.66), (0.58, 0.54, 0.50)),
    "glass": ((0.24, 0.33, 0.42), (0.30, 0.36, 0.40)),
    "wall": ((0.70, 0.62, 0.52), (0.60, 0.50, 0.44)),
    "fence": ((0.48, 0.36, 0.24), (0.58, 0.58, 0.56)),
    "pole": ((0.42, 0.42, 0.42), (0.34, 0.36, 0.36)),
    "housing": ((0.78, 0.62, 0.14), (0.30, 0.28, 0.16)),
    "sign": ((0.10, 0.42, 0.24), (0.90, 0.90, 0.88), (0.84, 0.16, 0.12)),
    "rim": ((0.92, 0.92, 0.90), (0.82, 0.14, 0.12)),
    "leaf": ((0.36, 0.52, 0.18), (0.44, 0.58, 0.22), (0.28, 0.44, 0.16)),
    "shade leaf": ((0.18, 0.30, 0.08), (0.22, 0.34, 0.10)),
    "bark": ((0.44, 0.34, 0.24), (0.38, 0.32, 0.26)),
    "grass": ((0.62, 0.62, 0.30), (0.52, 0.60, 0.26)),
    "soil": ((0.66, 0.56, 0.38), (0.56, 0.52, 0.30)),
    "skin": ((0.84, 0.64, 0.52), (0.50, 0.36, 0.28)),
    "shirt": ((0.84, 0.30, 0.24), (0.26, 0.42, 0.74), (0.88, 0.86, 0.82), (0.30, 0.58, 0.40)),
    "trousers": ((0.22, 0.28, 0.44), (0.46, 0.40, 0.32)),
    "helmet": ((0.84, 0.20, 0.18), (0.92, 0.92, 0.92)),
    "car": ((0.80, 0.14, 0.12), (0.16, 0.34, 0.70), (0.90, 0.88, 0.84), (0.88, 0.70, 0.14)),
    "truck": ((0.82, 0.80, 0.74), (0.30, 0.44, 0.62)),
    "cargo": ((0.86, 0.84, 0.78), (0.62, 0.50, 0.34)),
    "bus": ((0.88, 0.62, 0.16), (0.30, 0.48, 0.72)),
    "train": ((0.72, 0.74, 0.78), (0.74, 0.20, 0.18)),
    "motorcycle": ((0.74, 0.12, 0.10), (0.20, 0.22, 0.26)),
    "bicycle": ((0.20, 0.46, 0.72), (0.78, 0.22, 0.20)),
    "tyre": ((0.12, 0.12, 0.12),),
    "zenith": ((0.30, 0.52, 0.86), (0.38, 0.58, 0.88)),
    "horizon": ((0.72, 0.82, 0.92), (0.80, 0.84, 0.88)),
    "cloud": ((0.96, 0.96, 0.96),),
    "hood": ((0.10, 0.10, 0.11),),
  },
  palette_shift=0.025,
  object_shift=0.045,
  texture_contrast=0.55,
  texture_size=1.6,
  sun_elevation=(0.5, 1.1),
  sun_strength=(0.55, 0.75),
  sun_color=(1.10, 1.0, 0.84),
  sky_color=(0.88, 0.96, 1.14),
  shadow=0.65,
  haze_density=(0.001, 0.004),
  haze_color=(0.62, 0.72, 0.84),
  clouds=0.15,
  exposure=(-0.2, 0.2),
  white_balance=(1.04, 1.0, 0.95),
  white_balance_spread=0.03,
  saturation=1.15,
  contrast=1.1,
  gamma=2.2,
  vignetting=0.0,
  blur=0.3,
  noise=0.006,
)

REAL = Domain(
  name="real",
  focal=1.1047,
  principal_point=(0.5356, 0.5011),
  camera_height=(1.18, 1.30),
  camera_pitch=(0.02, 0.06),
  hood_height=0.07,
  objects={
    "parked car": 3.2,
    "moving car": 1.1,
    "truck": 0.3,
    "bus": 0.3,
    "train": 0.28,
    "person": 3.6,
    "cyclist": 0.85,
    "motorcyclist": 0.45,
    "bicycle": 0.8,
    "motorcycle": 0.5,
    "signal": 1.3,
    "sign": 1.8,
    "tree": 3.0,
    "bush": 1.0,
    "railing": 0.7,
  },
  frontage={"building": 0.54, "wall": 0.19, "fence": 0.21, "park": 0.1, "hedge": 0.08},
  verge=0.4,
  palette=_COMMON
  | {
    "asphalt": ((0.42, 0.42, 0.42), (0.44, 0.44, 0.43)),
    "paint": ((0.81, 0.81, 0.78), (0.79, 0.75, 0.59)),
    "paving": ((0.60, 0.58, 0.54), (0.57, 0.52, 0.50)),
    "facade": ((0.68, 0.63, 0.55), (0.54, 0.45, 0.40), (0.75, 0.70, 0.61), (0.53, 0.43, 0.39)),
    "glass": ((0.23, 0.28, 0.32), (0.37, 0.41, 0.44)),
    "wall": ((0.58, 0.55, 0.49), (0.50, 0.42, 0.38)),
    "fence": ((0.38, 0.35, 0.28), (0.47, 0.45, 0.43)),
    "pole": ((0.47, 0.48, 0.47), (0.35, 0.37, 0.37)),
    "housing": ((0.41, 0.36, 0.16), (0.24, 0.23, 0.18)),
    "sign": ((0.15, 0.36, 0.44), (0.83, 0.83, 0.81), (0.82, 0.46, 0.14)),
    "rim": ((0.80, 0.49, 0.48), (0.81, 0.54, 0.53)),
    "leaf": ((0.30, 0.42, 0.20), (0.38, 0.47, 0.24), (0.36, 0.40, 0.21)),
    "shade leaf": ((0.14, 0.22, 0.10), (0.18, 0.24, 0.11)),
    "bark": ((0.36, 0.30, 0.25), (0.31, 0.28, 0.24)),
    "grass": ((0.46, 0.52, 0.26), (0.46, 0.52, 0.28)),
    "soil": ((0.50, 0.45, 0.32), (0.49, 0.45, 0.31)),
    "skin": ((0.76, 0.59, 0.51), (0.54, 0.41, 0.34)),
    "shirt": ((0.46, 0.25, 0.24), (0.37, 0.29, 0.42), (0.69, 0.68, 0.66), (0.25, 0.41, 0.41)),
    "trousers": ((0.20, 0.24, 0.34), (0.33, 0.30, 0.27)),
    "helmet": ((0.50, 0.25, 0.25), (0.81, 0.81, 0.80)),
    "car": ((0.40, 0.15, 0.15), (0.44, 0.51, 0.66), (0.49, 0.51, 0.55), (0.62, 0.38, 0.15)),
    "truck": ((0.74, 0.73, 0.69), (0.24, 0.38, 0.51)),
    "cargo": ((0.70, 0.70, 0.67), (0.46, 0.45, 0.41)),
    "bus": ((0.78, 0.66, 0.40), (0.49, 0.34, 0.42)),
    "train": ((0.68, 0.64, 0.52), (0.57, 0.39, 0.37)),
    "motorcycle": ((0.40, 0.16, 0.16), (0.36, 0.36, 0.39)),
    "bicycle": ((0.24, 0.35, 0.46), (0.60, 0.39, 0.38)),
    "tyre": ((0.11, 0.11, 0.11),),
    "zenith": ((0.56, 0.68, 0.82), (0.52, 0.65, 0.82)),
    "horizon": ((0.80, 0.86, 0.89), (0.80, 0.83, 0.86)),
    "cloud": ((0.89, 0.90, 0.90),),
    "hood": ((0.14, 0.14, 0.15),),
  },
  palette_shift=0.04,
  object_shift=0.06,
  texture_contrast=2.0,
  texture_size=0.8,
  sun_elevation=(0.35, 0.9),
  sun_strength=(0.1, 0.55),
  sun_color=(1.04, 1.0, 0.94),
  sky_color=(0.97, 1.0, 1.02),
  shadow=0.6,
  haze_density=(0.002, 0.006),
  haze_color=(0.66, 0.72, 0.74),
  clouds=0.6,
  exposure=(-0.5, 0.2),
  white_balance=(0.96, 1.02, 0.97),
  white_balance_spread=0.05,
  saturation=0.88,
  contrast=0.96,
  gamma=2.15,
  vignetting=0.25,
  blur=0.5,
  noise=0.015,
)
