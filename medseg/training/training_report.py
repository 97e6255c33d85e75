"""How a training went, for people: `docs/report.html` with curves and worst cases; the card `README.md`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medseg.export.pictures import draw_sections, png_of
from medseg.export.report import rendered
from medseg.files import write_text
from medseg.training.curves import curve_svg
from medseg.training.fingerprint import Fingerprint
from medseg.training.optimise import Row
from medseg.training.plan import Plan
from medseg.training.scoring import Scored
from medseg.volume import InstanceVolume, LabelVolume

MOST_WORST = 3
"""Cases that are drawn."""


@dataclass(frozen=True, eq=False)
class Story:
    """All that is told of a training.

    Attributes:
        name: of the model.
        licence: of the model.
        plan: how it was learned.
        fingerprint: of the dataset.
        histories: rows of the log of each fold.
        scored: held-out cases of all folds.
        faults: of the dataset, in words.
    """

    name: str
    licence: str
    plan: Plan
    fingerprint: Fingerprint
    histories: Sequence[Sequence[Row]]
    scored: Sequence[Scored]
    faults: Sequence[str]

    @property
    def figure(self) -> str:
        """What the scores are."""
        return "F1 at IoU 0.5" if self.plan.has_objects else "Dice"

    @property
    def headline(self) -> str:
        """Cases, networks, and the mean score in a line."""
        means = [one.mean for one in self.scored if np.isfinite(one.mean)]
        words = (
            f"mean {self.figure} {np.mean(means):.3f} of {len(means)} held-out" if means else "none held out"
        )
        return f"{self.fingerprint.cases} cases, {words}, {len(self.histories)} network(s)"


def write_training_report(story: Story, folder: Path) -> None:
    """Write `report.html` and `README.md`.

    Args:
        story: what to tell.
        folder: an existing one.

    Raises:
        WriteError: `DISK_FULL`, `NOT_WRITABLE`.
    """
    write_text(folder / "report.html", training_page(story))
    write_text(folder / "README.md", model_card(story))


def training_page(story: Story) -> str:
    """The page as text; it needs no other file, and every name in it is escaped."""
    from markupsafe import Markup

    return rendered(
        "medseg.training",
        "report.html.j2",
        name=story.name,
        headline=story.headline,
        notes=story.faults,
        curves=[Markup(curve) for curve in _curves(story)],  # noqa: S704  made here, names escaped
        tables=list(_tables(story)),
        worst=[(_caption(one, story.figure), *_pictures(one)) for one in worst_cases(story.scored)],
        plan=[(key, json.dumps(value)) for key, value in asdict(story.plan).items()],
    )


def _curves(story: Story) -> Iterator[str]:
    def lines(key: str) -> dict[str, list[tuple[float, float]]]:
        named = {f"network {n + 1}": rows for n, rows in enumerate(story.histories)}
        return {name: [(row["step"], row[key]) for row in rows if key in row] for name, rows in named.items()}

    yield curve_svg(lines("loss"), "loss")
    if any("score" in row for rows in story.histories for row in rows):
        yield curve_svg(lines("score"), f"{story.figure} of held-out cases", 1.0)
        first = story.histories[0]
        classes = dict.fromkeys(key for row in first for key in row if key.startswith("score "))
        by_class = {
            key.removeprefix("score "): [(row["step"], row[key]) for row in first if key in row]
            for key in classes
        }
        yield curve_svg(by_class, f"{story.figure} of each class, network 1", 1.0)


def _tables(story: Story) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    names = list(dict.fromkeys(name for one in story.scored for name in one.scores))
    by_class = {name: [one.scores[name] for one in story.scored] for name in names}
    rows = [[name, *_spread(values)] for name, values in by_class.items()]
    if rows:
        yield f"{story.figure} of each class", ["class", "cases", "mean", "median", "least", "most"], rows
        ordered = sorted(story.scored, key=lambda one: np.nan_to_num(one.mean, nan=2.0))
        cases = [[one.name, f"{one.mean:.3f}", *(f"{one.scores[n]:.3f}" for n in names)] for one in ordered]
        yield "Held-out cases, the worst first", ["case", "mean", *names], cases
    learned = [
        [one.name, str(one.cases), f"{one.median_volume_mm3 / 1000:.4g}", f"{100 * one.share:.3g}"]
        for one in story.fingerprint.classes
    ]
    yield "What was learned", ["class", "cases", "median ml", "% of all voxels"], learned


def _spread(values: Sequence[float]) -> list[str]:
    there = np.array([value for value in values if np.isfinite(value)])
    if not there.size:
        return ["0", *[""] * 4]
    figures = (there.mean(), np.median(there), there.min(), there.max())
    return [str(there.size), *(f"{figure:.3f}" for figure in figures)]


def worst_cases(scored: Sequence[Scored]) -> list[Scored]:
    """The held-out cases with the lowest mean scores, the lowest first."""
    judged = [one for one in scored if np.isfinite(one.mean)]
    return sorted(judged, key=lambda one: one.mean)[:MOST_WORST]


def _caption(one: Scored, figure: str) -> str:
    return f"{one.name}: mean {figure} {one.mean:.3f}"


def _pictures(one: Scored) -> tuple[str, str]:
    shown = [_drawable(labels) for labels in (one.truth, one.prediction)]
    truth, found = (base64.b64encode(png_of(draw_sections(x, one.image, one.truth))).decode() for x in shown)
    return truth, found


def _drawable(labels: LabelVolume) -> LabelVolume:
    """Objects that have no names get a colour each."""
    if labels.labels.ids:
        return labels
    objects = dict.fromkeys(labels.present_ids(), 1)
    return InstanceVolume(labels.array, labels.geometry, labels.labels, objects)


def model_card(story: Story) -> str:
    """The card of the model in Markdown: data, figures, licence, use."""
    plan, data = story.plan, story.fingerprint
    spacing, shape = (_times(np.median(np.array(x), axis=0)) for x in (data.spacings_mm, data.shapes))
    names = list(dict.fromkeys(name for one in story.scored for name in one.scores))
    rows = [f"| {n} | {' | '.join(_spread([one.scores[n] for one in story.scored]))} |" for n in names]
    table = ["| class | cases | mean | median | least | most |", "|---|---|---|---|---|---|", *rows]
    figures = f"{story.figure} of {len(story.scored)} held-out case(s), by networks that never saw them:"
    unknown = "No case was held out: nobody knows how well this model works on another image."
    steps = " and ".join(str(int(history[-1]["step"])) for history in story.histories)
    facts = [
        f"{data.cases} cases, modality {data.modality or 'not stated'}",
        f"median case: {shape} voxels of {spacing} mm",
        f"images of a case: {', '.join(data.channel_names) or len(data.channels)}",
        f"classes: {', '.join(f'{one.name} ({one.cases} cases)' for one in data.classes)}",
        *story.faults,
    ]
    learned = (
        f"{len(story.histories)} network(s) {plan.network['_target_']}, {steps} steps of {plan.batch} "
        f"patches of {_times(plan.patch)} voxels of {_times(plan.spacing_mm)} mm. Plan and fingerprint: "
        "`configs/plan.json`, `configs/fingerprint.json`; log and curves: `docs/`."
    )
    parts = {
        story.name: ["For research. Not a medical device: do not use for diagnosis or treatment."],
        "Data": [f"- {fact}" for fact in facts],
        "Figures": [figures, "", *table] if rows else [unknown],
        "How it was learned": [learned],
        "Licence": [story.licence],
        "Use": ["    medseg segment SCAN --model THIS_FOLDER -o RESULT"],
    }
    texts = [f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in parts.items()]
    return "\n".join(texts).removeprefix("#")


def _times(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
