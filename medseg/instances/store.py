"""Separation of a volume that is larger than memory: from one OME-Zarr store into another, resumable."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from medseg.errors import ReadError, SettingsError, WriteError
from medseg.files import write_text
from medseg.geometry import Geometry
from medseg.instances.basins import BlockBasins, Int32Array, find_basins
from medseg.instances.decode import MergeRule, Watch, label_type, merge_basins
from medseg.instances.graph import take_labels
from medseg.instances.grid import BlockGrid, Triple, triple
from medseg.instances.heights import ArrayLike, HeightMap, read_block
from medseg.instances.ome_zarr import Store, create_label_store
from medseg.instances.places import ObjectPlaces
from medseg.instances.plan import height_map, merge_rule
from medseg.instances.settings import SeparationSettings

CHUNK: Triple = (128, 128, 128)
BLOCK: Triple = (256, 256, 256)
"""Read and worked on at once: takes about half a GB. A multiple of the chunks that are written."""

_STATE_VERSION = 1


@dataclass(frozen=True)
class StoreSummary:
    """What `separate_store` wrote.

    Attributes:
        path: folder of the OME-Zarr label image.
        voxels: size of object 1, 2, …
        volume_mm3: the same in mm3.
        centroid_mm: mean of the voxel centres along z, y, x, in the store's own coordinates.
        box_start: first voxel along z, y, x.
        box_stop: one past the last.
    """

    path: Path
    voxels: tuple[int, ...]
    volume_mm3: tuple[float, ...]
    centroid_mm: tuple[tuple[float, float, float], ...] = ()
    box_start: tuple[Triple, ...] = ()
    box_stop: tuple[Triple, ...] = ()


def separate_store(
    labels: Store,
    output: str | Path,
    class_id: int,
    *,
    settings: SeparationSettings,
    image: Store | None = None,
    block: Triple = BLOCK,
    watch: Watch | None = None,
) -> StoreSummary:
    """Tell the objects of a class apart, block by block, with the answer that the whole would give.

    Work in progress is kept in the folder `OUTPUT.partial`. A run that was stopped goes on from there
    when it is called again in the same way; the folder vanishes when the output is complete. It needs
    2 bytes of disk per voxel (4 where a block has more than 65535 basins) beside the output.
    A chunk that is missing from a store holds its fill value, as Zarr has it; a chunk that is cut
    short is an error.

    Args:
        labels: classes.
        output: folder of the OME-Zarr label image to make.
        class_id: id of the class.
        settings: how.
        image: intensities on the same grid; needed for the height `intensity`.
        block: voxels that are worked on at once; any size gives the same answer.
        watch: who is told, and who may stop the work.

    Raises:
        SettingsError: no `diameter_mm` where distances are needed; no image for `intensity`.
        VolumeError: labels that are no integers.
        ReadError: a damaged store, or one that changed since the work began.
        WriteError: the output exists, or cannot be written.
        CancelledError: a stop was asked for; what was done is kept.
    """
    output, watch = Path(output), watch or Watch()
    if image is not None and image.array.shape != labels.array.shape:
        raise ReadError("GRID_MISMATCH", "expected image and labels of one shape, got two; resample one")
    grid = store_grid(labels, block)
    arrays = [_OneRead(labels.array), *([] if image is None else [_OneRead(image.array)])]
    source = height_map(arrays[0], arrays[1] if image else None, class_id, labels.spacing_mm, settings)
    if len(grid.blocks) > 1 and all(r >= n for r, n in zip(source.reach, grid.shape, strict=True)):
        raise SettingsError(
            "DIAMETER_NEEDED",
            "expected diameter_mm for a volume that is cut into blocks, got 0; give the diameter of a "
            "typical object, so that heights need not look through the whole volume",
        )
    geometry = Geometry.from_spacing(grid.shape, labels.spacing_mm)
    bench = begin_store(output, _plan_words(labels, image, (class_id, settings), grid), grid)
    _first_pass(source, arrays, bench, watch)
    return _finish(bench, labels, output, merge_rule(geometry, settings), watch)


def store_grid(image: Store, block: Triple = BLOCK) -> BlockGrid:
    """The blocks in which a store is worked on: whole chunks of what is written, about as large as asked."""
    shape = triple(image.array.shape)
    chunk = _chunk(shape, block)
    return BlockGrid(shape, triple([max(c, b // c * c) for c, b in zip(chunk, block, strict=True)]))


def _chunk(shape: Triple, block: Triple) -> Triple:
    return triple([min(c, b, n) for c, b, n in zip(CHUNK, block, shape, strict=True)])


def begin_store(output: Path, plan: dict[str, Any], grid: BlockGrid) -> FolderBench:
    """The folder of work in progress for an output.

    Args:
        output: the store to make.
        plan: all that the work depends on; the same when it goes on.
        grid: blocks of the work.

    Raises:
        WriteError: the output exists, or the folder cannot be written.
        ReadError: `STORE_CHANGED`, the folder holds other work.
    """
    if output.exists():
        raise WriteError("OUTPUT_EXISTS", f"expected a new folder, got {output.name!r}; choose another name")
    return FolderBench(output.with_name(output.name + ".partial"), plan, grid)


def decode_store(
    source: HeightMap, rule: MergeRule, template: Store, output: Path, bench: FolderBench, watch: Watch
) -> StoreSummary:
    """Objects of a height map, block by block into a store.

    Args:
        source: the heights; they are the same when the work goes on.
        rule: which basins make one object.
        template: store on the same grid.
        output: folder of the OME-Zarr label image to make.
        bench: of `begin_store`.
        watch: who is told, and who may stop the work.

    Raises:
        WriteError: the output cannot be written.
        CancelledError: a stop was asked for; what was done is kept.
    """
    _first_pass(source, [], bench, watch)
    return _finish(bench, template, output, rule, watch)


def _finish(bench: FolderBench, template: Store, output: Path, rule: MergeRule, watch: Watch) -> StoreSummary:
    """Merge the basins of all blocks and write the objects."""
    grid = bench.grid
    graph, objects = merge_basins(grid, bench, rule, watch)
    dtype = np.dtype(label_type(objects))
    target = bench.folder / "objects.zarr"
    written = create_label_store(target, template, dtype, _chunk(grid.shape, grid.block))
    places = ObjectPlaces(len(objects.voxels))
    for number, part in enumerate(grid.blocks):
        watch.step("write objects", number, len(grid.blocks))
        ids = np.empty(part.shape, dtype=dtype)
        take_labels(bench.basins(number), objects.id_of_basin[graph.basin_of[number]], ids)
        if ids.any():
            written[part.slices] = ids
            places.add(ids, part.start)
    watch.step("write objects", len(grid.blocks), len(grid.blocks))
    target.replace(output)
    shutil.rmtree(bench.folder, ignore_errors=True)
    volumes = objects.voxels * math.prod(template.spacing_mm)
    return StoreSummary(
        output,
        tuple(objects.voxels.tolist()),
        tuple(volumes.tolist()),
        places.centroids_mm(objects.voxels, template),
        tuple(triple(row) for row in places.start.tolist()),
        tuple(triple(row) for row in places.stop.tolist()),
    )


def _first_pass(source: HeightMap, arrays: list[_OneRead], bench: FolderBench, watch: Watch) -> None:
    """Basins of every block; of blocks that are done, whether their voxels are still the same.

    Raises:
        ReadError: they are not.
    """
    grid = bench.grid
    for number, block in enumerate(grid.blocks):
        watch.step("find basins", number, len(grid.blocks))
        region = block.grown((1, 1, 1), grid.shape)
        seen = region.grown(source.reach, grid.shape)
        digest = 0
        for array in arrays:
            digest = zlib.crc32(read_block(array, seen).tobytes(), digest)
        if not bench.has(number):
            bench.keep(
                number, *find_basins(source.heights(region), source.spacing_mm, region, block, grid.shape)
            )
            bench.seal(number, digest)
        elif bench.digest(number) != digest:
            raise ReadError(
                "STORE_CHANGED",
                f"expected the voxels of the earlier run from {seen.start} to {seen.stop}, got others; "
                f"remove the folder {bench.folder.name!r} and start again",
            )
    watch.step("find basins", len(grid.blocks), len(grid.blocks))


def _plan_words(
    labels: Store, image: Store | None, choice: tuple[int, SeparationSettings], grid: BlockGrid
) -> dict[str, Any]:
    """All that a state on disk depends on, besides voxels."""
    return {
        "state": _STATE_VERSION,
        "labels": labels.fingerprint,
        "image": None if image is None else image.fingerprint,
        "spacing_mm": list(labels.spacing_mm),
        "class_id": choice[0],
        "settings": dataclasses.asdict(choice[1]),
        "shape": list(grid.shape),
        "block": list(grid.block),
    }


class _OneRead:
    """An array that remembers the part that was read last, so that a second look costs nothing."""

    def __init__(self, array: ArrayLike) -> None:
        self._array = array
        self._slices: tuple[slice, slice, slice] | None = None
        self._part: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> Any:
        return self._array.dtype

    def __getitem__(self, slices: tuple[slice, slice, slice], /) -> Any:
        if slices != self._slices:
            self._part = None
            self._part, self._slices = self._array[slices], slices
        return self._part


class FolderBench:
    """A workbench on disk; a block is there whole, or not at all."""

    def __init__(self, folder: Path, plan: dict[str, Any], grid: BlockGrid) -> None:
        self.folder, self.grid = folder, grid
        words = json.dumps(plan, sort_keys=True)
        plan_file = folder / "plan.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not plan_file.exists():
                write_text(plan_file, words)
            same = plan_file.read_text() == words
        except OSError as error:
            raise WriteError(
                "NOT_WRITABLE", f"expected to write {folder.name!r}, got a refusal; choose another folder"
            ) from error
        if not same:
            raise ReadError(
                "STORE_CHANGED",
                f"expected the run that {folder.name!r} holds, got other settings or another store; "
                "repeat the call that began it, or remove the folder",
            )

    def known(self) -> Sequence[BlockBasins]:
        """What remains known of all blocks; read from disk when it is asked for."""
        return _KnownOnDisk([self._file(number, "npz") for number in range(len(self.grid.blocks))])

    def has(self, number: int) -> bool:
        """Whether a block is done already."""
        return self._file(number, "crc").exists()

    def keep(self, number: int, known: BlockBasins, basins: Int32Array) -> None:
        """Store a block; it counts once it is sealed."""
        narrow = basins.astype(np.uint16) if len(known.end) < 2**16 else basins
        faces: dict[str, Any] = {f"basins_{a}{s}": v for (a, s), v in known.face_basins.items()}
        faces |= {f"heights_{a}{s}": v for (a, s), v in known.face_heights.items()}
        rows = {name: getattr(known, name) for name in _ROWS}
        np.save(self._file(number, "npy"), narrow)
        np.savez(self._file(number, "npz"), **rows, **faces)

    def seal(self, number: int, digest: int) -> None:
        """Count a block as done, made from voxels of this digest."""
        write_text(self._file(number, "crc"), str(digest))

    def digest(self, number: int) -> int:
        """Digest of the voxels that a block was made from."""
        return int(self._file(number, "crc").read_text())

    def basins(self, number: int) -> Int32Array:
        """Local basins of a block."""
        return np.asarray(np.load(self._file(number, "npy")), dtype=np.int32)

    def _file(self, number: int, ending: str) -> Path:
        return self.folder / f"block{number:06d}.{ending}"


_ROWS = ("end", "is_root", "top", "voxels", "first", "pairs", "saddles")


class _KnownOnDisk(Sequence[BlockBasins]):
    """What remains known of all blocks, a few of them in memory."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._read = functools.lru_cache(maxsize=8)(_read_known)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, number: int) -> BlockBasins: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[BlockBasins]: ...
    def __getitem__(self, number: int | slice) -> BlockBasins | Sequence[BlockBasins]:
        if isinstance(number, slice):
            return _KnownOnDisk(self._files[number])
        return self._read(self._files[number])

    def __iter__(self) -> Iterator[BlockBasins]:
        return (self._read(file) for file in self._files)


def _read_known(file: Path) -> BlockBasins:
    with np.load(file) as kept:
        faces = [(name, (int(name[-2]), int(name[-1]))) for name in kept.files if name not in _ROWS]
        rows: dict[str, Any] = {name: kept[name] for name in _ROWS}
        return BlockBasins(
            **rows,
            face_basins={key: kept[name] for name, key in faces if name.startswith("basins_")},
            face_heights={key: kept[name] for name, key in faces if name.startswith("heights_")},
        )
