"""Surfaces are closed, lie where the voxels lie, and hold their volume."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Sphere, centre_mm, label_map, mask_of, oblique_grid
from strategies import geometries

from medseg.errors import VolumeError
from medseg.export.meshes import Mesh, class_meshes, file_names, mesh_of_mask, write_stl
from medseg.geometry import Geometry
from medseg.measure.regions import Region, measure_regions


def is_watertight(mesh: Mesh) -> bool:
    """Every edge is walked as often one way as the other."""
    edges: Counter[tuple[int, int]] = Counter()
    for a, b, c in mesh.triangles.tolist():
        edges.update([(a, b), (b, c), (c, a)])
    return all(edges[b, a] == n for (a, b), n in edges.items())


def read_stl(path: Path) -> tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Header, normals `(n, 3)` and corners `(n, 3, 3)`, by the format's description."""
    data = path.read_bytes()
    (count,) = struct.unpack("<I", data[80:84])
    assert len(data) == 84 + 50 * count
    rows = [struct.unpack_from("<12fH", data, 84 + 50 * n)[:12] for n in range(count)]
    numbers = np.array(rows, dtype=np.float32).reshape(-1, 4, 3)
    return data[:80].decode("ascii"), numbers[:, 0], numbers[:, 1:]


@given(seed=st.integers(0, 2**31), grid=geometries(least=2, most=6, shear=True))
@settings(deadline=None, max_examples=40)
def test_any_mask_has_a_closed_surface_facing_out(seed: int, grid: Geometry) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random(grid.shape) < generator.choice([0.1, 0.5, 0.9])
    mask[0, 0, 0] = True
    mesh = mesh_of_mask(mask, grid)
    assert is_watertight(mesh)
    assert mesh.volume_mm3 > 0
    index = grid.to_index(mesh.vertices_mm)
    assert (index >= -0.5 - 1e-3).all()
    assert (index <= np.array(grid.shape) - 0.5 + 1e-3).all()


@pytest.mark.parametrize("smoothing_mm", [0.0, 1.0])
def test_sphere_holds_its_volume_and_place(smoothing_mm: float) -> None:
    grid = oblique_grid((60, 50, 40), (0.7, 0.9, 1.3))
    ball = Sphere(centre_mm(grid), 13.0)
    mesh = mesh_of_mask(mask_of(ball, grid), grid, smoothing_mm)
    assert is_watertight(mesh)
    assert mesh.volume_mm3 == pytest.approx(ball.volume_mm3, rel=0.03)
    radii = np.linalg.norm(mesh.vertices_mm - ball.centre_mm, axis=1)
    assert radii.min() > 13 - 1.3
    assert radii.max() < 13 + 1.3
    if smoothing_mm:
        assert radii.std() < 0.35


def test_blur_that_would_lose_an_object_is_left_out() -> None:
    grid = Geometry.from_spacing((9, 9, 9))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[4, 4, 4] = True
    assert mesh_of_mask(mask, grid, 3.0).volume_mm3 == mesh_of_mask(mask, grid).volume_mm3 > 0
    with pytest.raises(VolumeError):
        mesh_of_mask(~mask & mask, grid)


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_stl_says_its_space_and_keeps_millimetres(space: str, tmp_path: Path) -> None:
    grid = oblique_grid()
    mesh = mesh_of_mask(mask_of(Sphere(centre_mm(grid), 9.0), grid), grid)
    header, normals, corners = read_stl(
        write_stl(mesh, tmp_path / "a.stl", "RAS" if space == "RAS" else "LPS")
    )
    assert f"SPACE={space}" in header
    assert not header.startswith("solid")  # that word would mean the text form
    middle = np.array(centre_mm(grid)) * ([1, 1, 1] if space == "RAS" else [-1, -1, 1])
    np.testing.assert_allclose(corners.reshape(-1, 3).mean(axis=0), middle, atol=0.3)
    outward = corners.mean(axis=1) - middle
    assert ((normals * outward).sum(axis=1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_every_class_has_a_surface_and_a_name_of_its_own() -> None:
    grid = Geometry.from_spacing((40, 30, 30))
    labels = label_map(
        grid,
        {
            "left/right": Sphere((10, 10, 10), 6),
            "Left Right": Sphere((28, 10, 10), 6),
            "../../etc": Sphere((20, 22, 20), 5),
            "…": Sphere((5, 22, 22), 3),
        },
    )
    regions = measure_regions(labels)
    names = file_names(regions)
    assert names == {1: "left_right", 2: "Left_Right_2", 3: "etc", 4: "label"}
    found = {region.id: mesh.volume_mm3 for region, mesh in class_meshes(labels)}
    for region in regions:
        assert found[region.id] == pytest.approx(region.volume_mm3, rel=0.06)


def test_names_stay_apart_even_where_tails_meet() -> None:
    def region(label_id: int, name: str) -> Region:
        return Region(label_id, label_id, name, 1, 1.0, (0, 0, 0), (0, 0, 0), (1, 1, 1), False)

    names = file_names((region(1, "a"), region(2, "a_3"), region(3, "a")))
    assert len({name.lower() for name in names.values()}) == 3
