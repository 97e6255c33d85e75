"""A dataset looked into, once, before anything is learned: all faults at once, and the facts of each case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError, VolumeError
from medseg.labels import Label, LabelSet, colour_of_id
from medseg.measure.regions import measure_regions
from medseg.measure.sides import find_swapped_sides
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.result import hash_volume
from medseg.training.case_reading import CaseData, read_case_data
from medseg.training.dataset import ALWAYS_TRAINING, Case, Dataset, Fault

STAGE = "check"
"""Name of the stage in progress reports; a unit is a case."""

SAMPLED_VOXELS = 10_000
"""Of a case's foreground, whose intensities stand for all (nnU-Net's `num_foreground_voxels` likewise)."""

MOST_CLASSES = 250
"""More ids are objects, not classes."""

LEAST_OBJECTS = 8
"""Fewer numbered things in every case may well be classes."""

MOST_TOLD = 40
"""Faults that an error spells out."""

AXES = "RAS"
"""Facts of shape and spacing are told along these axes, as the network will see them."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What a plan has to know of a case.

    Attributes:
        name: of the case.
        shape: voxels along `AXES`.
        spacing_mm: along `AXES`.
        modality: of the first image, as DICOM calls it; empty where unknown.
        voxels: id to number of voxels, background left out.
        names: id to name, where the label file has names of its own.
        is_named: whether names count and not ids (DICOM).
        intensities: for each channel a sample of the foreground, or of everything where there is none.
        zero_share: part of the first image that is exactly 0.
        lowest: finite value of the first image.
        pieces: connected ones of the foreground.
        image_sha256: of the voxels and the grid of all images together.
        label_sha256: likewise.
        labels: classes as the label file describes them.
        fold: as in `Case`.
    """

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    modality: str
    voxels: Mapping[int, int]
    names: Mapping[int, str]
    is_named: bool
    intensities: tuple[FloatArray, ...]
    zero_share: float
    lowest: float
    pieces: int
    image_sha256: str
    label_sha256: str
    labels: LabelSet
    fold: int | None = None


@dataclass(frozen=True, eq=False)
class CheckedDataset:
    """A dataset and what was found in it.

    Attributes:
        cases: those that can be read; cases with a grave fault are among `faults` only.
        facts: of these, in their order.
        faults: everything found, grave ones first.
        class_names: id to name of every class that is to be learned; of objects the one class.
        channel_names: of the images; empty where nobody tells.
        has_objects: whether labels are numbers of objects and not of classes.
        file_ids: id in the label files to id in `class_names`, where they differ; else empty.
        unlabelled: ids in `class_names` of which no label file holds a voxel: a list named them, or a model
            that was started from brought them along.
        described: classes that come with a colour or a code, by their names in small letters.
    """

    cases: tuple[Case, ...]
    facts: tuple[CaseFacts, ...]
    faults: tuple[Fault, ...]
    class_names: Mapping[int, str]
    channel_names: tuple[str, ...] = ()
    has_objects: bool = False
    file_ids: Mapping[int, int] = field(default_factory=dict)
    unlabelled: frozenset[int] = frozenset()
    described: Mapping[str, Label] = field(default_factory=dict)
    grave: tuple[Fault, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grave", tuple(fault for fault in self.faults if fault.is_grave))

    @property
    def classes_by_name(self) -> bool:
        """Whether a case's own names say which class an id is (DICOM)."""
        return any(one.is_named for one in self.facts) and not self.has_objects

    def class_of(self, names: Mapping[int, str], label_id: int) -> int:
        """The class that an id of one case means; 0 where it is none that is learned.

        Args:
            names: of that case's label file.
            label_id: above 0.
        """
        if self.has_objects:
            return 1
        if not self.classes_by_name:
            known = self.file_ids.get(label_id, 0) if self.file_ids else label_id
            return known if known in self.class_names else 0
        name = names.get(label_id, f"label {label_id}").casefold()
        return next((i for i, known in self.class_names.items() if known.casefold() == name), 0)

    def class_voxels(self, facts: CaseFacts, class_id: int) -> int:
        """How many voxels of a case belong to a class."""
        return sum(n for i, n in facts.voxels.items() if self.class_of(facts.names, i) == class_id)


def check_dataset(
    dataset: Dataset,
    labels: str = "auto",
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> CheckedDataset:
    """Read every case once and tell all that is wrong with the dataset.

    Args:
        dataset: of `list_dataset`.
        labels: `"classes"`, `"objects"`, or `"auto"`: objects where every case numbers its things from 1
            on without gaps, there are many, and not equally many in all cases.
        progress: told after every case.
        cancel: looked at before every case.

    Raises:
        CancelledError: a stop was asked for.
    """
    facts: dict[str, CaseFacts] = {}
    faults = list(dataset.faults)
    for number, case in enumerate(dataset.cases):
        if cancel is not None:
            cancel.check()
        progress(Progress(STAGE, number, len(dataset.cases)))
        try:
            data = read_case_data(case)
        except ReadError as error:
            faults.append(Fault(error.code, str(error), case.name))
            continue
        facts[case.name] = case_facts(case, data)
        faults += _of_case(case, data, dataset.class_names)
    progress(Progress(STAGE, len(dataset.cases), len(dataset.cases)))
    known = tuple(facts.values())
    has_objects = labels == "objects" or (labels == "auto" and numbers_objects(known, dataset.class_names))
    names = {1: "object"} if has_objects else class_table(known, dataset.class_names)
    if known and not has_objects:
        faults += _of_classes(known, names)
    faults += _of_channels(dataset, known) + _of_copies(known) + _of_numbers(known)
    bad = {fault.case for fault in faults if fault.is_grave}
    kept = tuple(case for case in dataset.cases if case.name not in bad)
    made = CheckedDataset(
        kept,
        tuple(facts[case.name] for case in kept),
        tuple(sorted(faults, key=lambda fault: not fault.is_grave)),
        names,
        dataset.channel_names,
        has_objects,
        described={} if has_objects else described(label for one in known for label in one.labels),
    )
    missing = [i for i in names if not any(made.class_voxels(one, i) for one in made.facts)]
    return replace(made, unlabelled=frozenset(missing))


def require_sound(
    dataset: CheckedDataset, tell: Callable[[str], None], *, skip_faulty: bool = False
) -> CheckedDataset:
    """The dataset, where nothing grave is wrong with it; what is not grave is told.

    Args:
        dataset: of `check_dataset`.
        tell: told every fault that does not stop the training.
        skip_faulty: whether to go on without the cases that have a grave fault, if some are left.

    Raises:
        VolumeError: `DATASET_FAULTS`, naming every grave one.
    """
    fatal = [fault for fault in dataset.grave if not fault.case or not skip_faulty]
    is_sound = not fatal and bool(dataset.cases)
    for fault in dataset.faults:
        if is_sound or not fault.is_grave:
            tell(fault.words)
    if is_sound:
        return dataset
    told = "".join(f"\n  {fault.words}" for fault in dataset.grave[:MOST_TOLD])
    more = len(dataset.grave) - MOST_TOLD
    rest = f"\n  … and {more} more" if more > 0 else ""
    can_skip = not skip_faulty and bool(dataset.cases) and all(fault.case for fault in dataset.grave)
    way_out = ", or train without these cases by --skip-faulty" if can_skip else ""
    raise VolumeError(
        "DATASET_FAULTS",
        f"expected a sound dataset, got {len(dataset.grave)} grave fault(s); repair them{way_out}:"
        f"{told}{rest}",
    )


def case_facts(case: Case, data: CaseData) -> CaseFacts:
    """What a plan has to know of a case in memory."""
    import cc3d

    first = data.images[0]
    ids, counts = np.unique(data.labels.array, return_counts=True)
    inside = np.flatnonzero(data.labels.array)
    if inside.size == 0:
        inside = np.arange(data.labels.array.size)
    chosen = np.random.default_rng(0).choice(inside, min(SAMPLED_VOXELS, inside.size), replace=False)
    grid = first.geometry.reorient(AXES)
    return CaseFacts(
        name=case.name,
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        modality=first.modality,
        voxels={int(i): int(n) for i, n in zip(ids, counts, strict=True) if i != 0},
        names=stated_names(data),
        is_named=data.is_named,
        intensities=tuple(_finite(image.array.reshape(-1)[chosen]) for image in data.images),
        zero_share=float((first.array == 0).mean()),
        lowest=float(np.nanmin(first.array)),
        pieces=int(cc3d.connected_components(data.labels.array > 0, return_N=True)[1]),
        image_sha256=" ".join(hash_volume(image) for image in data.images),
        label_sha256=hash_volume(data.labels),
        labels=data.labels.labels,
        fold=case.fold,
    )


def _finite(sample: npt.NDArray[np.generic]) -> FloatArray:
    values = np.asarray(sample, dtype=np.float32)
    return values[np.isfinite(values)]


def stated_names(data: CaseData) -> dict[int, str]:
    """Names that say more than the id."""
    return {i: name for i, name in data.labels.labels.names.items() if name != f"label {i}"}


def described(labels: Iterable[Label]) -> dict[str, Label]:
    """Those that have a code or a colour of their own, by their names in small letters; the first counts."""
    found: dict[str, Label] = {}
    for label in labels:
        if label.code is not None or label.colour != colour_of_id(label.id):
            found.setdefault(label.name.casefold(), label)
    return found


def class_table(facts: Sequence[CaseFacts], stated: Mapping[int, str]) -> dict[int, str]:
    """Every class that is to be learned: id to name.

    The dataset's own names decide. Else, where DICOM names the segments of each case, every name is a
    class, numbered in the order of the alphabet. Else ids are classes, called as a label file calls them.

    Args:
        facts: of all cases.
        stated: by the dataset.
    """
    if stated:
        return dict(sorted(stated.items()))
    if any(one.is_named for one in facts):
        present = {one.names.get(i, f"label {i}") for one in facts for i in one.voxels}
        return dict(enumerate(sorted(present), start=1))
    names: dict[int, str] = {}
    for one in facts:
        for i in one.voxels:
            names.setdefault(i, one.names.get(i, f"label {i}"))
    counts = {name: list(names.values()).count(name) for name in names.values()}
    return {i: name if counts[name] == 1 else f"{name} {i}" for i, name in sorted(names.items())}


def numbers_objects(facts: Sequence[CaseFacts], stated: Mapping[int, str]) -> bool:
    """Whether ids number objects: from 1 on without gaps, many, and not equally many in every case."""
    counts = [len(one.voxels) for one in facts if one.voxels]
    gapless = all(set(one.voxels) == set(range(1, len(one.voxels) + 1)) for one in facts)
    is_unnamed = not stated and not any(one.is_named for one in facts)
    varies = len(set(counts)) > 1 or len(counts) == 1
    return is_unnamed and gapless and bool(counts) and min(counts) >= LEAST_OBJECTS and varies


def _of_case(case: Case, data: CaseData, stated: Mapping[int, str]) -> list[Fault]:
    faults = []
    for path, image in zip(case.images, data.images, strict=True):
        faults += [_light(note, path.name, case.name) for note in image.notes]
    ids = data.labels.present_ids()
    if not ids:
        words = f"expected foreground in {case.labels.name}, got none; it teaches background only"
        faults.append(Fault("EMPTY_CASE", words, case.name, is_grave=False))
    strange = [] if data.is_named or not stated else [i for i in ids if i not in stated]
    if strange:
        words = f"expected ids of {_some(list(stated))} in {case.labels.name}, got {_some(strange)}"
        faults.append(Fault("LABEL_UNKNOWN", words + "; name them in the list, or repair", case.name))
    if len(ids) <= MOST_CLASSES:
        named = LabelSet.from_names(stated) if stated else data.labels.labels
        sides = find_swapped_sides(measure_regions(replace(data.labels, labels=named)))
        faults += [_light(words, case.labels.name, case.name) for words in sides]
    return faults


def _light(words: str, file: str, case: str) -> Fault:
    """A note of a reader, `[CODE] sentence`, as a fault that does not stop a training."""
    code, _, sentence = words.removeprefix("[").partition("] ")
    return Fault(code, f"{file}: {sentence}", case, is_grave=False)


def _some(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")


def _of_classes(facts: Sequence[CaseFacts], names: Mapping[int, str]) -> list[Fault]:
    if len(names) > MOST_CLASSES:
        words = (
            f"expected at most {MOST_CLASSES} classes, got {len(names)} label ids; if they number objects, "
        )
        return [Fault("TOO_MANY_CLASSES", words + "give --labels objects")]
    faults = []
    by_name = any(one.is_named for one in facts)
    for i, name in names.items():
        holders = [one for one in facts if _has(one, i, name, by_name=by_name)]
        if not holders:
            words = f"expected {name} (id {i}) in some case, got it in none; it will not be learned"
            faults.append(Fault("CLASS_MISSING", words, is_grave=False))
        elif len(holders) == 1 and len(facts) > 1:
            words = f"expected {name} (id {i}) in several cases, got it in {holders[0].name} alone"
            faults.append(Fault("CLASS_RARE", words, is_grave=False))
    return faults


def _has(one: CaseFacts, i: int, name: str, *, by_name: bool) -> bool:
    return name in {one.names.get(k, f"label {k}") for k in one.voxels} if by_name else i in one.voxels


def _of_channels(dataset: Dataset, facts: Sequence[CaseFacts]) -> list[Fault]:
    counts = [len(one.intensities) for one in facts]
    wanted = len(dataset.channel_names) or max(set(counts), key=counts.count, default=1)
    return [
        Fault("CHANNELS_DIFFER", f"expected {wanted} image(s) of each case, got {n} of {one.name}", one.name)
        for one, n in zip(facts, counts, strict=True)
        if n != wanted
    ]


def _of_copies(facts: Sequence[CaseFacts]) -> list[Fault]:
    """Cases that hold the same image, above all where one is learned from and the other checked on."""
    faults, seen = [], dict[str, CaseFacts]()
    for one in facts:
        first = seen.setdefault(one.image_sha256, one)
        if first is one:
            continue
        same = "the same labels" if first.label_sha256 == one.label_sha256 else "other labels"
        words = f"got the image of {first.name} again in {one.name}, with {same}; remove one of them"
        is_leak = first.fold != one.fold and not {first.fold, one.fold} <= {None, ALWAYS_TRAINING}
        if is_leak:
            words = f"expected nothing held out that is learned from, {words}"
        else:
            words = f"expected every image once, {words}"
        faults.append(Fault("LEAKAGE" if is_leak else "DUPLICATE", words, one.name))
    return faults


def _of_numbers(facts: Sequence[CaseFacts]) -> list[Fault]:
    if not facts:
        return [Fault("NO_CASE", "expected at least one case that can be read, got none")]
    if not any(one.voxels for one in facts):
        return [Fault("NO_FOREGROUND", "expected labels above 0 in some case, got background alone")]
    if len(facts) == 1:
        words = "expected several cases, got one: the model is trained without validation, so that nobody "
        return [Fault("ONE_CASE", words + "knows how well it works on another image", is_grave=False)]
    return []
