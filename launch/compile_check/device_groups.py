"""Reads which devices exchange data in a collective of a compiled program."""

import math
import re

import numpy as np

# XLA writes groups of devices in three forms.
# 1. As lists, '{{0,1},{2,3}}'. Those of a permutation are pairs.
_LISTS = re.compile(
    r"\b(?:replica_groups|source_target_pairs)=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}"
)
# 2. As an array of all devices, which is reshaped, perhaps transposed, and reshaped to
# [number of groups, devices of a group]: '[2,2]<=[2,2]T(1,0)'.
_ARRAY = re.compile(r"\breplica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
# 3. As the axes of a mesh that groups run along: "mesh['a'=2,'b'=4] {'b'}". The devices
# of the mesh may be an array as in 2.
_MESH = re.compile(
    r"\breplica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
# An axis of the mesh and its size.
_MESH_AXIS = re.compile(r"'([^']*)'=(\d+)")
# An axis that groups run along, the whole of it or a factor of its size. The axis 'b'
# of size 8 is seen as [2, 4, 1] by 'b':(2)4, and groups run along the 4.
_GROUP_AXIS = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")


def crosses_slices(definition: str, *, per_slice: int) -> bool:
    """Returns whether a collective has devices of several slices in one group.

    Args:
      definition: that of the collective, with its attributes.
      per_slice: devices of a slice. Devices are numbered slice by slice.
    """
    groups = _groups(definition)
    # Without any, all devices form one group.
    if groups is None:
        return True

    for group in groups:
        slices = {device // per_slice for device in group}
        if len(slices) > 1:
            return True
    return False


def _groups(definition: str) -> list[list[int]] | None:
    """Reads the groups of devices of a collective; None if it names none."""
    if match := _LISTS.search(definition):
        groups = re.findall(r"\{([\d,]*)\}", match[1])
        return [_numbers(group) for group in groups]

    if match := _ARRAY.search(definition):
        devices = _ordered(match[3], match[4])
        return devices.reshape(int(match[1]), int(match[2])).tolist()

    if match := _MESH.search(definition):
        return _groups_of_mesh(match)

    return None


def _groups_of_mesh(match: re.Match[str]) -> list[list[int]]:
    """Reads groups that are given by axes of a mesh, a match of `_MESH`."""
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(match[1])}
    devices = np.arange(math.prod(sizes.values()))
    if match[2]:
        devices = _ordered(match[2], match[3])

    # Of each axis that groups run along: the size of what is outside of the group's
    # part, and the size of that part.
    grouped = {}
    for name, before, part in _GROUP_AXIS.findall(match[4]):
        grouped[name] = (int(before or 1), int(part or sizes[name]))

    # Every axis becomes three: what is outside of the group, the group, and the rest.
    shape: list[int] = []
    for name, size in sizes.items():
        before, part = grouped.get(name, (size, 1))
        shape += [before, part, size // (before * part)]
    within = [axis for axis in range(len(shape)) if axis % 3 == 1]
    outside = [axis for axis in range(len(shape)) if axis % 3 != 1]

    # [number of groups, devices of a group].
    number = math.prod(shape[axis] for axis in outside)
    arranged = devices.reshape(shape).transpose(outside + within)
    return arranged.reshape(number, -1).tolist()


def _ordered(shape: str, axes: str | None) -> np.ndarray:
    """Numbers all devices in an array of a shape '2,4', transposed by axes '1,0'."""
    sizes = _numbers(shape)
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices.transpose(_numbers(axes)) if axes else devices


def _numbers(text: str) -> list[int]:
    """Reads numbers that commas separate; none from an empty text."""
    return [int(number) for number in text.split(",") if number]
