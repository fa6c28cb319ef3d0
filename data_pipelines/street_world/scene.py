"""One street: a seeded layout of things along a road, their motion, and the ego vehicle's path."""

import dataclasses

import numpy as np

from data_pipelines.street_world import builder as builder_lib
from data_pipelines.street_world import camera as camera_lib
from data_pipelines.street_world import domains, primitives, street, textures
from data_pipelines.street_world.parts import ID

FRAME_RATE = 17.0  # frames a second, as in Cityscapes' sequences
BASELINE = 0.209313  # metres between left and right view, as in Cityscapes
MAX_SPEED = 11.0  # metres a second, of the ego vehicle
MAX_YAW_RATE = 0.12  # radians a second
MAX_HEADING = 0.06  # radians between the ego vehicle and the street
CROSSING_PROBABILITY = 0.35


@dataclasses.dataclass(frozen=True)
class Scene:
  """A street with N primitives at frame time 0; arrays have one row a primitive, then the ground.

  Attributes:
    domain: domain that it was sampled from.
    entropy: seed of the street, and of its light and noise.
    parts: the primitives at time 0.
    velocity: float64[N, 3], metres a second.
    label: uint8[N + 1], training ids; the last row is the road's.
    instance: uint16[N + 1], the same number for all parts of a thing; 0 for the ground.
    color: float32[N + 1, 2, 3], linear albedo of the parts' two colours.
    glow: float32[N + 1], emitted light.
    pattern: int[N + 1], one of `textures`' patterns.
    grain: float32[N + 1, 2], size in metres and contrast of the texture.
    shadows: float64[M, 8]: x, y, z of a thing's foot, its heading, its half width and length,
      and its velocity (x, y).
    half_width: metres from the middle of the road to its kerbs.
    crossing: y of the middle of a crossing street; infinite for none.
    rails: x of the middle of the tram's rails; infinite for none.
    ground: linear colours of paint, soil, grass and rails, float32[4, 3].
    ego: (x, heading, speed, yaw rate, camera height, pitch) at time 0.
  """

  domain: domains.Domain
  entropy: tuple[int, ...]
  parts: primitives.Primitives
  velocity: np.ndarray
  label: np.ndarray
  instance: np.ndarray
  color: np.ndarray
  glow: np.ndarray
  pattern: np.ndarray
  grain: np.ndarray
  shadows: np.ndarray
  half_width: float
  crossing: float
  rails: float
  ground: np.ndarray
  ego: tuple[float, float, float, float, float, float]

  def at(self, time: float) -> primitives.Primitives:
    """The primitives `time` seconds after the labelled frame."""
    return dataclasses.replace(self.parts, center=self.parts.center + time * self.velocity)

  def camera(
    self, height: int, width: int, *, time: float = 0.0, right: bool = False
  ) -> camera_lib.Camera:
    """The left or right camera of an image of `height` x `width` pixels at `time` seconds."""
    x, heading, speed, yaw_rate, up, pitch = self.ego
    middle = heading + yaw_rate * time / 2
    domain = self.domain
    left = camera_lib.Camera(
      height=height,
      width=width,
      focal=domain.focal * width,
      center=(domain.principal_point[0] * width - 0.5, domain.principal_point[1] * height - 0.5),
      rotation=camera_lib.rotation_of(yaw=heading + yaw_rate * time, pitch=pitch),
      position=np.array([x + speed * time * np.sin(middle), speed * time * np.cos(middle), up]),
    )
    return left.right_of(BASELINE) if right else left


def make_scene(domain: domains.Domain, entropy: tuple[int, ...]) -> Scene:
  """Samples a street; the same `entropy` gives the same street.

  Layout and look have separate generators, so that the same entropy in two domains with equal
  frequencies gives the same layout in other colours.
  """
  rng = np.random.default_rng([*entropy, 0])
  look = builder_lib.Look(domain, np.random.default_rng([*entropy, 1]))
  builder = builder_lib.Builder(look, domain.texture_size, domain.texture_contrast)
  half_width = rng.uniform(3.7, 5.0)
  crossing = rng.uniform(22, 60) if rng.random() < CROSSING_PROBABILITY else np.inf
  ego = (
    half_width * rng.uniform(0.25, 0.5),
    rng.uniform(-MAX_HEADING, MAX_HEADING),
    rng.uniform(0, MAX_SPEED),
    rng.uniform(-MAX_YAW_RATE, MAX_YAW_RATE),
    rng.uniform(*domain.camera_height),
    rng.uniform(*domain.camera_pitch),
  )
  sides = [
    street.side(builder, domain, rng, side, half_width=half_width, crossing=crossing)
    for side in (-1, 1)
  ]
  rails = street.traffic(builder, domain, rng, half_width=half_width, crossing=crossing, ego=ego)
  street.furniture(builder, domain, rng, half_width=half_width, sides=sides, ego=ego)
  street.far_end(builder, rng)
  ground = np.stack([look.draw(m) for m in ("paint", "soil", "grass", "tyre")])
  size, contrast = textures.GRAIN["asphalt"]
  rows = np.array(builder.rows)
  asphalt = look.draw("asphalt")
  return Scene(
    domain=domain,
    entropy=tuple(entropy),
    parts=primitives.Primitives(
      body=rows[:, 0].astype(np.int64),
      cutout=rows[:, 1].astype(np.int64),
      center=rows[:, 6:9],
      half=rows[:, 9:12],
      rotation=rows[:, 12:21].reshape(-1, 3, 3),
    ),
    velocity=np.pad(rows[:, 21:23], ((0, 0), (0, 1))),
    label=np.append(rows[:, 3], ID["road"]).astype(np.uint8),
    instance=np.append(rows[:, 4], 0).astype(np.uint16),
    color=np.append(rows[:, 23:29], [[*asphalt, *asphalt]], axis=0)
    .reshape(-1, 2, 3)
    .astype(np.float32),
    glow=np.append(rows[:, 5], 0).astype(np.float32),
    pattern=np.append(rows[:, 2], textures.ROAD).astype(np.int64),
    grain=np.append(
      rows[:, 29:31],
      [[size * domain.texture_size, contrast * domain.texture_contrast]],
      axis=0,
    ).astype(np.float32),
    shadows=np.array(builder.shadows).reshape(-1, 8),
    half_width=half_width,
    crossing=crossing,
    rails=rails,
    ground=ground.astype(np.float32),
    ego=ego,
  )
