"""Frames: cast the primitives, shade the hits, apply the camera."""

import dataclasses

import numpy as np
from scipy import ndimage

from corda_jax import labels
from data_pipelines.street_world import camera as camera_lib
from data_pipelines.street_world import primitives, street, textures
from data_pipelines.street_world import scene as scene_lib
from data_pipelines.street_world.parts import ID

SKY = ID["sky"]
RAIL = (0.72, 0.06)  # metres from the middle of the rails to each, and a rail's half width
FIRST_STEP = 1000  # added to a step where a number must not be negative


@dataclasses.dataclass(frozen=True)
class Frame:
  """What the camera sees.

  Attributes:
    image: uint8[H, W, 3], RGB.
    label: uint8[H, W], training ids, 255 on the car's own hood.
    depth: float32[H, W], metres along the optical axis; infinite in the sky and on the hood.
    instance: uint16[H, W], one number for each thing, 0 for the ground, the sky and the hood.
    camera: camera of the view.
  """

  image: np.ndarray
  label: np.ndarray
  depth: np.ndarray
  instance: np.ndarray
  camera: camera_lib.Camera


@dataclasses.dataclass(frozen=True)
class Light:
  """Light and weather of a scene, sampled from its domain.

  Attributes:
    sun: float32[3], unit vector towards the sun.
    strength: the sun's share of the light.
    haze: density of the haze, 1 / metres.
    gain: float32[3], exposure times white balance.
    sky: float32[3, 3], linear colours of zenith, horizon and clouds.
    hood: float32[3], linear colour of the car's own hood.
  """

  sun: np.ndarray
  strength: float
  haze: float
  gain: np.ndarray
  sky: np.ndarray
  hood: np.ndarray


def draw_light(domain, entropy: tuple[int, ...]) -> Light:
  """Samples the conditions of a scene; the same `entropy` gives the same light."""
  rng = np.random.default_rng([*entropy, 2])
  azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(*domain.sun_elevation)
  flat = np.cos(elevation)
  tint = np.exp(rng.normal(0, domain.white_balance_spread, 3)) * domain.white_balance

  def pick(material):
    return np.array(domain.palette[material][rng.integers(len(domain.palette[material]))]) ** 2.2

  return Light(
    sun=np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], np.float32),
    strength=rng.uniform(*domain.sun_strength),
    haze=rng.uniform(*domain.haze_density),
    gain=(2 ** rng.uniform(*domain.exposure) * tint).astype(np.float32),
    sky=np.stack([pick("zenith"), pick("horizon"), pick("cloud")]).astype(np.float32),
    hood=pick("hood").astype(np.float32),
  )


def render(
  scene: scene_lib.Scene, *, height: int, width: int, step: int = 0, right: bool = False
) -> Frame:
  """Renders one view; a scene, a size, a step and a side always give the same bytes.

  Args:
    scene: the street.
    height: rows of the image.
    width: columns of the image.
    step: frames after the labelled one, at `scene.FRAME_RATE` frames a second; may be negative.
    right: whether it is the right view of the stereo pair.
  """
  time = step / scene_lib.FRAME_RATE
  light = draw_light(scene.domain, scene.entropy)
  camera = scene.camera(height, width, time=time, right=right)
  parts = scene.at(time)
  depth, index = primitives.cast(parts, camera)
  rays = camera.rays()
  label = np.full(depth.size, SKY, np.uint8)
  instance = np.zeros(depth.size, np.uint16)
  direction = camera.rotation.astype(np.float32) @ rays
  radiance = _sky(scene.domain, light, direction)
  hit = np.flatnonzero(index >= 0)
  point = camera.position.astype(np.float32)[:, None] + depth[hit] * direction[:, hit]
  color, hit_label = _shade(
    scene,
    light,
    parts,
    index[hit],
    point=point,
    footprint=depth[hit] / camera.focal,
    time=time,
  )
  distance = depth[hit] * np.sqrt((rays[:, hit] ** 2).sum(0))
  clear = np.exp(-light.haze * distance)
  haze = np.asarray(scene.domain.haze_color, np.float32)[:, None]
  radiance[:, hit] = color * clear + haze * (1 - clear)
  label[hit] = hit_label
  instance[hit] = scene.instance[index[hit]]
  hood = _hood(scene.domain, height, width)
  if hood.any():
    shine = 1 + 1.5 * np.clip(1 - rays[1, hood] * 2.5, 0, 1)
    radiance[:, hood] = light.hood[:, None] * shine
    label[hood], depth[hood], instance[hood] = labels.IGNORE, np.inf, 0
  noise = np.random.default_rng([*scene.entropy, 3, FIRST_STEP + step, int(right)])
  image = _develop(scene.domain, light, radiance.reshape(3, height, width), noise)
  return Frame(
    image=image,
    label=label.reshape(height, width),
    depth=depth.reshape(height, width),
    instance=instance.reshape(height, width),
    camera=camera,
  )


def _hood(domain, height, width):
  """bool[H * W]: an ellipse that rises from the bottom of the image."""
  x = (np.arange(width) + 0.5) / width * 2 - 1
  edge = height * (1 - domain.hood_height * np.sqrt(np.maximum(1 - (x / 0.95) ** 2, 0)))
  return (np.arange(height)[:, None] + 0.5 > edge).reshape(-1)


def _sky(domain, light, direction):
  rise = direction[2] / np.sqrt((direction**2).sum(0))
  share = np.clip(rise * 2.5, 0, 1)
  color = light.sky[1][:, None] * (1 - share) + light.sky[0][:, None] * share
  scale = 3 / (np.maximum(rise, 0) + 0.15)
  x, y = direction[0] * scale, direction[1] * scale
  noise = textures.value_noise(x, y, np.zeros_like(x)) + 0.5 * textures.value_noise(
    2 * x, 2 * y, np.ones_like(x)
  )
  cover = np.clip((noise + 2 * domain.clouds - 1) * 1.2 + 0.3, 0, 1) * domain.clouds
  return color * (1 - cover) + light.sky[2][:, None] * cover


def _shade(scene, light, parts, index, *, point, footprint, time):
  """Linear colours float32[3, P] and training ids uint8[P] of the hit points."""
  count = len(parts.body)
  label = scene.label[index]
  pattern = scene.pattern[index]
  ground = index == count
  part = np.minimum(index, count - 1)
  rotation = parts.rotation.astype(np.float32)[part].T  # [body axis, world axis, P]
  relative = point - parts.center.astype(np.float32)[part].T
  local = (rotation * relative).sum(1)
  half = parts.half.astype(np.float32)[part].T
  normal = _normals(parts.body[part], local, half)
  local[:, ground] = point[:, ground]
  normal_world = (rotation * normal[:, None]).sum(0)
  normal_world[:, ground] = np.array([[0], [0], [1]], np.float32)

  size, contrast = scene.grain[index].T
  grain = 1 / (size * _GRAIN_OCTAVE)
  shift = scene.instance[index].astype(np.float32) * 0.37
  noise = textures.value_noise(*(local / size + shift))
  fine = textures.value_noise(*(local * grain + shift))
  # Grain that is finer than a pixel's footprint would alias; it fades out with distance.
  noise = noise / (1 + (2 * footprint / size) ** 2) + 0.7 * fine / (
    1 + (2 * footprint * grain) ** 2
  )

  color = scene.color[index, 0].T.copy()
  for kind in np.unique(pattern):
    if kind in (textures.PLAIN, textures.ROAD):
      continue
    at = np.flatnonzero(pattern == kind)
    if kind in (textures.FOLIAGE, textures.GRASS):
      share = np.clip(0.5 + (0.9 if kind == textures.FOLIAGE else 0.7) * noise[at], 0, 1)
      color[:, at] += share * (scene.color[index[at], 1].T - color[:, at])
      continue
    second = at[textures.second_colour(int(kind), local[:, at], half[:, at], normal[:, at])]
    color[:, second] = scene.color[index[second], 1].T
  at = np.flatnonzero(ground)
  color[:, at], label[at] = _road(scene, point[:, at], noise[at], color[:, at])

  color = color * np.maximum(1 + contrast * noise, 0.05)
  facing = np.maximum((normal_world * light.sun[:, None]).sum(0), 0)
  flat = np.flatnonzero((normal_world[2] > 0.9) & (point[2] < street.KERB + 0.02))
  ambient = 0.62 + 0.38 * normal_world[2]
  covered = _shadows(scene, light, point[:, flat], time) * scene.domain.shadow
  facing[flat] *= 1 - covered
  ambient[flat] *= 1 - 0.6 * covered
  sun = np.asarray(scene.domain.sun_color, np.float32)[:, None] * (1.4 * light.strength)
  sky = np.asarray(scene.domain.sky_color, np.float32)[:, None] * (1 - light.strength)
  shaded = color * (facing * sun + ambient * sky) + color * scene.glow[index]
  return shaded.astype(np.float32), label


_GRAIN_OCTAVE = 0.29  # size of the finer grain over the coarser


def _normals(body, local, half):
  """Unit normals float32[3, P] in the bodies' axes at surface points `local` (metres)."""
  unit = local / half
  size = np.abs(unit)
  normal = np.zeros_like(local)
  axis = np.argmax(size, axis=0)
  column = np.arange(local.shape[1])
  normal[axis, column] = np.sign(unit[axis, column])
  round_ = body == primitives.ELLIPSOID
  normal[:, round_] = (unit / half)[:, round_]
  tube = (body == primitives.CYLINDER) & (size[2] < 0.9999)
  normal[:2, tube] = (unit / half)[:2, tube]
  normal[2, tube] = 0
  return normal / np.maximum(np.sqrt((normal**2).sum(0)), 1e-9)


def _road(scene, point, noise, color):
  """Colours and training ids of ground points: road, markings, rails, and land off the road."""
  x, y = point[0], point[1]
  land = (np.abs(x) > scene.half_width) & (np.abs(y - scene.crossing) > street.CROSSING_HALF)
  paint = textures.lane_marking(
    x, y, half_width=scene.half_width, crossing=scene.crossing,
    crossing_half=street.CROSSING_HALF,
  )  # fmt: skip
  rail = np.abs(np.abs(x - scene.rails) - RAIL[0]) < RAIL[1]
  share = np.clip(0.5 + 0.7 * noise, 0, 1)
  soil = scene.ground[1][:, None] * share + scene.ground[2][:, None] * (1 - share)
  color = np.where(paint, scene.ground[0][:, None], color)
  color = np.where(rail, scene.ground[3][:, None], color)
  color = np.where(land, soil, color)
  return color, np.where(land, ID["terrain"], ID["road"]).astype(np.uint8)


def _shadows(scene, light, point, time):
  """float32[P], 0..1: how much things hide the light from flat ground points."""
  covered = np.zeros(point.shape[1], np.float32)
  stretch = light.strength * 0.8 / max(float(light.sun[2]), 0.3)
  for x, y, _, heading, half_x, half_y, speed_x, speed_y in scene.shadows:
    # The shadow is a blob under the thing, shifted a little away from the sun.
    dx = point[0] - np.float32(x + speed_x * time - stretch * light.sun[0])
    dy = point[1] - np.float32(y + speed_y * time - stretch * light.sun[1])
    cos, sin = np.float32(np.cos(heading)), np.float32(np.sin(heading))
    across = (cos * dx + sin * dy) / np.float32(half_x * 1.15)
    along = (cos * dy - sin * dx) / np.float32(half_y * 1.1)
    np.maximum(covered, 1.3 - (across * across + along * along), out=covered)
  return np.minimum(covered, 1)


def _develop(domain, light, radiance, rng):
  """Linear radiance float32[3, H, W] → uint8[H, W, 3]: lens, exposure, tone curve, sensor."""
  _, height, width = radiance.shape
  if domain.blur > 0:
    radiance = ndimage.gaussian_filter(radiance, (0, domain.blur, domain.blur), mode="nearest")
  if domain.vignetting > 0:
    y = (np.arange(height, dtype=np.float32) + 0.5) / height - 0.5
    x = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    radiance = radiance * (1 - 2 * np.float32(domain.vignetting) * (x * x + y[:, None] ** 2))
  shown = np.clip(radiance * light.gain[:, None, None], 0, 1) ** np.float32(1 / domain.gamma)
  grey = shown.mean(0)
  shown = grey + np.float32(domain.saturation) * (shown - grey)
  shown = 0.45 + np.float32(domain.contrast) * (shown - 0.45)
  noise = rng.standard_normal(shown.shape, dtype=np.float32)
  shown = shown + np.float32(domain.noise) * noise
  return np.clip(shown * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
