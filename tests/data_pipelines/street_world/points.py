"""Points of the street world, by their definition."""


def to_world(camera, points):
  """Points in the axes of a camera [..., 3] → world [..., 3]."""
  return points @ camera.rotation.T + camera.position
