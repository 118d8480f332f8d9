"""Sizes of the mesh, and those that are refused."""

import jax
import pytest

from ega_jax.parallel.mesh import AXES, axis_sizes, make_mesh, parse_mesh


def test_what_is_left_goes_to_the_free_axis():
  assert axis_sizes({}, 8) == {"dcn": 1, "data": 8, "fsdp": 1, "tensor": 1}
  assert axis_sizes({"fsdp": 4}, 8)["data"] == 2
  assert axis_sizes({"data": 2, "tensor": -1}, 8)["tensor"] == 4
  assert axis_sizes({"dcn": 2, "data": 2, "fsdp": 2, "tensor": 2}, 16) == dict.fromkeys(AXES, 2)


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"data": 3}, "asks for 3 devices"),
    ({"fsdp": 3}, "asks for 3 devices"),
    ({"data": 4}, "asks for 4 devices"),  # divides 8 and leaves devices idle
    ({"data": -1, "fsdp": -1}, "both -1"),
    ({"data": 0}, "mesh.data = 0"),
    ({"tensor": -2}, "mesh.tensor = -2"),
    ({"model": 2}, "'model' is unknown; allowed: dcn, data, fsdp, tensor"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
  with pytest.raises(ValueError, match=message):
    axis_sizes(sizes, 8)


def test_text_of_a_mesh():
  assert parse_mesh("data=2, fsdp=-1") == {"data": 2, "fsdp": -1}
  assert parse_mesh("") == {}
  for text in ("data", "data=two"):
    with pytest.raises(ValueError, match="allowed: axis=size"):
      parse_mesh(text)


def test_axes_propagate_automatically():
  mesh = make_mesh({}, jax.devices()[:1])
  assert mesh.axis_names == AXES
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
