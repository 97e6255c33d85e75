"""Several models as one: each part's own labels where it alone speaks, the surer one where several do."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import make_card
from tiny_bundle import tiny_metadata, write_tiny_bundle
from torch import Tensor, nn

from medseg.cli.main import run
from medseg.errors import DeviceMemoryError, ModelError
from medseg.geometry import Geometry
from medseg.inference.plan import plan_inference
from medseg.inference.predict import predict, predict_planned
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener
from medseg.labels import LabelSet
from medseg.models import registry
from medseg.models.card import SlidingWindow
from medseg.models.intensity_steps import FixedRange, ZScore
from medseg.models.joining import join_models
from medseg.models.loading import Model, load_model
from medseg.pipeline import segment
from medseg.progress import Progress
from medseg.volume import LabelVolume, Volume

WINDOW = SlidingWindow((8, 8, 8), 0.5, "gaussian")


class Counting(nn.Module):
    """A random network that counts how often it is asked."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.last = nn.Conv3d(4, channels, 3, padding=1)
        for parameter in self.parameters():
            parameter.data.normal_(0.0, 0.6, generator=generator)
        self.asked = 0

    def forward(self, image: Tensor) -> Tensor:
        self.asked += 1
        scores: Tensor = self.last(torch.relu(self.first(image)))
        image.zero_()  # a network may write into its input: other parts must not see that
        return scores


def part(names: tuple[str, ...], seed: int, **changes: Any) -> Model:
    labels = LabelSet.from_names(dict(enumerate(names, start=1)))
    changes = {"window": WINDOW, **changes}
    card = make_card(len(names), labels=labels, name=f"part{seed}", **changes)
    return Model(card, Counting(len(names) + 1, seed).eval().requires_grad_(requires_grad=False))


def parts(**changes: Any) -> list[Model]:
    names = (("liver", "spleen"), ("aorta",), ("left rib", "right rib", "sternum"))
    return [part(some, seed, **changes) for seed, some in enumerate(names)]


def scan(shape: tuple[int, int, int] = (17, 15, 13)) -> Volume:
    array = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape))


def names_of(labels: LabelVolume) -> Any:
    """Labels as names, so that ids do not matter."""
    table = np.array(["", *(labels.labels.names.get(i, "?") for i in range(1, 20))], dtype=object)
    return table[labels.array]


def averaged(volume: Volume, model: Model) -> Any:
    """What the engine averages over windows, before any decision."""
    from medseg.inference.answer import make_answerer, model_parts
    from medseg.inference.stream import Stream

    class Keep:
        def __init__(self) -> None:
            self.planes: list[Tensor] = []

        def feed(self, values: Tensor, start: int) -> None:
            assert start == sum(planes.shape[plan.axis + 1] for planes in self.planes)
            self.planes.append(values.clone())

    plan = plan_inference(volume.geometry, model)
    pieces = model_parts(model, plan.windows.size)
    answerer = make_answerer(model, plan.windows.size, InferenceSettings(), pieces)
    keep = Keep()
    image = torch.from_numpy(volume.array)[None, None]
    with torch.inference_mode():
        stream = Stream(image, plan.windows, model.card.window, answerer, plan.axis, plan.flush_planes)
        stream.run([keep])
    values = torch.cat(keep.planes, dim=plan.axis + 1)
    return (values if pieces.head is None else pieces.head(values)).numpy()


def test_the_surest_part_wins_and_silence_is_background() -> None:
    """The oracle: averaged scores of each part by itself, odds against its own background, the highest."""
    volume, models = scan(), parts()
    joined = join_models(models)
    found = names_of(predict(volume, joined))
    odds, names = [], [""]
    for model in models:
        scores = averaged(volume, model)
        odds.append(scores[1:] - scores[:1])
        names += list(model.card.labels.names.values())
    stack = np.concatenate([np.zeros_like(odds[0][:1]), *odds])
    clear = np.diff(np.sort(stack, axis=0)[-2:], axis=0)[0] > 1e-4
    expected = np.array(names, dtype=object)[stack.argmax(axis=0)]
    assert clear.mean() > 0.99
    assert (found == expected)[clear].all()
    own = np.stack([names_of(predict(volume, model)) for model in models])
    claims = (own != "").sum(axis=0)
    alone = np.where(own != "", own, "").sum(axis=0)
    assert set(np.unique(claims)) >= {0, 1, 2}
    assert (found == alone)[(claims <= 1) & clear].all()
    several = (claims > 1) & clear
    assert all(found[at] in own[(slice(None), *at)] for at in zip(*np.nonzero(several), strict=True))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_parts_does_not_matter(order: tuple[int, ...]) -> None:
    models = parts()
    found = predict(scan(), join_models([models[n] for n in order]))
    assert (names_of(found) == names_of(predict(scan(), join_models(models)))).mean() > 0.9999


def test_every_window_is_read_once() -> None:
    models = parts()
    joined = join_models(models)
    reports: list[Progress] = []
    count = plan_inference(scan().geometry, models[0]).windows.count
    for model in models:
        assert isinstance(model.network, Counting)
        model.network.asked = 0
    predict(scan(), joined, progress=reports.append)
    assert reports[-1].total == count
    asked = [model.network.asked for model in models if isinstance(model.network, Counting)]
    assert max(asked) - min(asked) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"home": "labels-nearest"},
        {"home": "logits-linear", "spacing_mm": (1.3, 0.9, 1.6)},
        {"home": "labels-nearest", "spacing_mm": (1.3, 0.9, 1.6), "orientation": "PIR"},
    ],
)
@pytest.mark.parametrize("classes", [(), ("aorta", "left rib")])
def test_parts_in_turn_give_the_same_labels(changes: dict[str, Any], classes: tuple[str, ...]) -> None:
    joined = join_models(parts(activation="none", **changes))
    choice = InferenceSettings(classes=classes)
    plan = plan_inference(scan().geometry, joined, choice)
    together = predict_planned([scan()], joined, choice, plan).labels
    reports: list[Progress] = []
    turns = replace(plan, turns=3)
    found = predict_planned([scan()], joined, choice, turns, Listener(progress=reports.append)).labels
    assert len(np.unique(together.array)) == 1 + (len(classes) or 6)
    assert np.array_equal(found.array, together.array)
    assert found.labels == together.labels
    done = [report.done for report in reports]
    assert done == sorted(done)
    assert reports[-1].done == reports[-1].total == 3 * plan.windows.count


def test_parts_take_turns_where_all_at_once_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.inference.plan.resident_bytes", lambda: 10**9)
    geometry = Geometry.from_spacing((64, 64, 64))
    wide = SlidingWindow((32, 32, 32), 0.5, "gaussian")
    joined = join_models(parts(activation="none", window=wide))
    free = plan_inference(geometry, joined)
    assert free.turns == 1
    memory = free.memory  # even if planes are decided one at a time, all sums together need this
    limit = memory.program + memory.image + memory.slab + memory.network + memory.labels - 1
    short = InferenceSettings(max_memory_gb=limit / 1e9)
    plan = plan_inference(geometry, joined, short)
    assert plan.turns == 3
    assert plan.peak_bytes <= limit
    assert "3 parts in turn" in plan.sentence
    # where something looks at all classes together, they cannot
    with pytest.raises(DeviceMemoryError):
        plan_inference(geometry, joined, replace(short, uncertainty=True))
    with pytest.raises(DeviceMemoryError):
        plan_inference(geometry, join_models(parts(activation="softmax", window=wide)), short)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_parts_that_scale_by_themselves_see_what_they_see_alone(seed: int) -> None:
    """Fixed ranges of their own, and a scan smaller than a window: padding is 0 after the steps."""
    random = np.random.default_rng(seed)
    models = [
        replace(m, card=replace(m.card, intensity=(FixedRange(-2.0 - n, 1.0, -1.0, 2.0 + n, clip=n == 1),)))
        for n, m in enumerate(parts())
    ]
    shape = (6, 9, 8)
    volume = Volume(random.normal(0, 2, shape).astype(np.float32), Geometry.from_spacing(shape))
    found = names_of(predict(volume, join_models(models)))
    own = np.stack([names_of(predict(volume, model)) for model in models])
    claims = (own != "").sum(axis=0)
    alone = np.where(own != "", own, "").sum(axis=0)
    assert (found == alone)[claims <= 1].mean() > 0.995


def test_ids_stay_where_they_differ_else_are_counted_or_given() -> None:
    names = {1: "liver", 2: "spleen", 3: "aorta", 4: "left rib", 5: "right rib", 6: "sternum"}
    assert join_models(parts()).card.labels.names == names
    one, two, _ = parts()
    moved = LabelSet.from_names({7: "aorta"})
    two = replace(two, card=replace(two.card, labels=moved, output_ids=(0, 7)))
    assert join_models([one, two]).card.labels.names == {1: "liver", 2: "spleen", 7: "aorta"}
    given_ids = LabelSet.from_names({50: "Liver", 40: "spleen", 30: "aorta", 9: "unused"})
    joined = join_models([one, two], labels=given_ids)
    assert joined.card.output_ids == (0, 50, 40, 30)
    with pytest.raises(ModelError) as caught:
        join_models([one, two], labels=moved)
    assert caught.value.code == "LABELS_MISMATCH"


def test_folds_of_a_part_are_averaged() -> None:
    model, other, _ = parts()
    folded = replace(model, members=(Counting(3, 77).eval(), Counting(3, 78).eval()))
    found = names_of(predict(scan(), join_models([folded, other])))
    own = [names_of(predict(scan(), m)) for m in (folded, other)]
    alone = (own[0] == "") | (own[1] == "")
    assert (found == own[0] + own[1])[alone].mean() > 0.9999


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (2.0, 2.0, 2.0)},
        {"window": SlidingWindow((4, 8, 8))},
        {"intensity": (ZScore(),)},
        {"threshold": 0.5},
        {"home": "labels-nearest"},
        {"output_ids": (0, 1, 0)},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change: dict[str, Any]) -> None:
    one, two = part(("liver", "spleen"), 0), part(("kidney", "lung"), 1)
    with pytest.raises(ModelError) as caught:
        join_models([one, replace(two, card=replace(two.card, **change))])
    assert caught.value.code == "PARTS_DIFFER"
    with pytest.raises(ModelError):
        join_models([one])
    with pytest.raises(ModelError) as overlap:
        join_models([one, part(("Spleen", "lung"), 2)])
    assert overlap.value.code == "PARTS_OVERLAP"


def test_a_joined_model_is_a_model_like_any_other() -> None:
    joined = join_models(parts(), name="total")
    result = segment(scan(), joined, InferenceSettings(classes=("aorta", "sternum")))
    assert set(result.labels.labels.names.values()) == {"aorta", "sternum"}
    assert result.record.model == "total"
    assert len(joined.weights_sha256) == 64
    other = parts()
    other[0] = replace(other[0], weights_sha256="another")
    assert join_models(other).card.sha256 != joined.card.sha256
    with pytest.raises(DeviceMemoryError):
        plan_inference(Geometry.from_spacing((400,) * 3), joined, InferenceSettings(max_memory_gb=0.1))


def test_a_folder_of_parts_is_a_model_that_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path))
    formats = tiny_metadata()["network_data_format"]
    names = {"0": "background", "1": "heart", "2": "left lung", "3": "right lung"}
    other = formats | {"outputs": {"pred": formats["outputs"]["pred"] | {"channel_def": names}}}
    write_tiny_bundle(tmp_path / "blobs", seed=1)
    write_tiny_bundle(
        tmp_path / "both" / "chest", metadata={"network_data_format": other, "medseg": {}}, seed=2
    )
    recipe: dict[str, Any] = {"parts": ["blobs", "chest"], "version": "2", "licence": "MIT"}
    (tmp_path / "both" / "parts.json").write_text(json.dumps(recipe))
    joined = load_model("both", device="cpu")
    alone = join_models(
        [load_model("blobs", device="cpu"), load_model(tmp_path / "both" / "chest", device="cpu")]
    )
    assert (joined.card.name, joined.card.version, joined.card.licence) == ("both", "2", "MIT")
    volume = scan((30, 28, 26))
    assert np.array_equal(predict(volume, joined).array, predict(volume, alone).array)
    assert run(["models", "list"]) == 0
    assert "both" in capsys.readouterr().out
    before = registry.model_fingerprint(tmp_path / "both")
    write_tiny_bundle(tmp_path / "blobs", seed=3)
    assert registry.model_fingerprint(tmp_path / "both") != before
    ids = {name: n for n, name in enumerate(joined.card.labels.names.values(), start=100)}
    (tmp_path / "both" / "parts.json").write_text(json.dumps(recipe | {"label_ids": ids}))
    assert set(load_model("both", device="cpu").card.labels.ids) == set(ids.values())
    wrong: list[Any] = [
        {"parts": []},
        {"parts": "blobs"},
        {"parts": ["gone", "blobs"]},
        {"parts": ["../x", "."]},
    ]
    wrong += [{"parts": ["both", "blobs"]}, {"parts": [1, 2]}, {"label_ids": {"heart": "1"}}]
    wrong += [{"label_ids": dict.fromkeys(ids, 1)}]
    for change in wrong:
        (tmp_path / "both" / "parts.json").write_text(json.dumps(recipe | change))
        with pytest.raises(ModelError) as caught:
            load_model("both", device="cpu")
        assert caught.value.code == "BAD_PARTS", change
