"""The device mesh: (dcn, data, fsdp, tensor), outermost and slowest first."""

import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("dcn", "data", "fsdp", "tensor")


def axis_sizes(sizes, num_devices):
  """Returns the size of every axis of `AXES`, the -1 replaced by what is left of `num_devices`.

  Args:
    sizes: mapping of axis to size; an absent axis is 1, except that an absent `data` is -1 where no other axis is.
    num_devices: devices of all processes together.

  Raises:
    ValueError: an unknown axis, a size that is neither positive nor -1, two -1, or a product that is not num_devices.
  """
  sizes = dict(sizes or {})
  if unknown := sorted(set(sizes) - set(AXES)):
    raise ValueError(f"mesh axis {unknown[0]!r} is unknown; allowed: {', '.join(AXES)}")
  if -1 not in sizes.values():
    sizes.setdefault("data", -1)
  full = {axis: int(sizes.get(axis, 1)) for axis in AXES}
  for axis, size in full.items():
    if size == 0 or size < -1:
      raise ValueError(f"mesh.{axis} = {size}; allowed: a positive size, or -1 for the devices that are left")
  free = [axis for axis, size in full.items() if size == -1]
  if len(free) > 1:
    raise ValueError(f"mesh.{free[0]} and mesh.{free[1]} are both -1; allowed: one of them")
  fixed = math.prod(size for size in full.values() if size > 0)
  if num_devices % fixed or (not free and fixed != num_devices):
    shown = ", ".join(f"{axis}={size}" for axis, size in full.items())
    raise ValueError(f"mesh ({shown}) asks for {fixed} devices, which does not divide the {num_devices} that exist")
  return {axis: num_devices // fixed if size == -1 else size for axis, size in full.items()}


def make_mesh(sizes=None, devices=None) -> Mesh:
  """Returns a mesh over `devices` (default: all) with automatic sharding propagation.

  With dcn > 1 on several slices, neighbours along dcn are in different slices: only the batch is split there.
  """
  devices = list(jax.devices() if devices is None else devices)
  full = axis_sizes(sizes, len(devices))
  slices = {getattr(device, "slice_index", 0) for device in devices}
  types = (AxisType.Auto,) * len(AXES)
  if len(slices) > 1:
    inside = (1,) + tuple(full[axis] for axis in AXES[1:])
    grid = mesh_utils.create_hybrid_device_mesh(inside, (full["dcn"], 1, 1, 1), devices)
    return Mesh(grid, AXES, axis_types=types)
  return jax.make_mesh(tuple(full.values()), AXES, axis_types=types, devices=devices)


def parse_mesh(text):
  """Returns {"data": 2, "fsdp": 4} for "data=2,fsdp=4"; {} for an empty text.

  Raises: ValueError naming the first part that is no axis=integer; the axes are checked by `axis_sizes`.
  """
  sizes = {}
  for part in filter(None, (text or "").split(",")):
    axis, _, size = part.partition("=")
    try:
      sizes[axis.strip()] = int(size)
    except ValueError as error:
      raise ValueError(f"mesh {part!r}; allowed: axis=size[,axis=size] with axes {', '.join(AXES)}") from error
  return sizes
