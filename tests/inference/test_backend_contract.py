"""Every backend answers as torch in float32 does, or says that it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_card
from torch import Tensor, nn

from medseg.cache import CACHE_VARIABLE
from medseg.errors import CancelledError, ModelError, SettingsError
from medseg.geometry import Geometry
from medseg.inference.answer import model_parts
from medseg.inference.backends import choose
from medseg.inference.backends.cache import NetworkCache, cache_folder
from medseg.inference.backends.choose import BackendChoice, Trial, choose_backend, make_predictor
from medseg.inference.backends.int8 import agreement, sample_windows
from medseg.inference.backends.openvino_backend import Subject, openvino_predictor
from medseg.inference.plan import plan_inference
from medseg.inference.predict import plan_case, predict, predict_planned
from medseg.inference.settings import InferenceSettings
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model
from medseg.progress import CancelToken, Progress
from medseg.volume import Volume

pytest.importorskip("openvino")

WINDOW = (12, 10, 14)
BACKENDS = ("torch", "openvino")
TORCH = BackendChoice("torch", "f32")
OPENVINO = BackendChoice("openvino", "f32")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


class Small(nn.Module):
    """A few layers of each kind that networks of the field have."""

    def __init__(self, channels: int, classes: int, *, deep: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, 6, 3, padding=1), nn.InstanceNorm3d(6, affine=True), nn.LeakyReLU(0.01),
            nn.Conv3d(6, 8, 2, stride=2), nn.GroupNorm(4, 8), nn.PReLU(),
            nn.ConvTranspose3d(8, 6, 2, stride=2), nn.BatchNorm3d(6), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Conv3d(6, classes, 3, padding=1)
        self.deep = deep

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        scores: Tensor = self.head(self.body(image))
        return [scores, scores[..., ::2]] if self.deep else scores


def small_model(channels: int = 1, classes: int = 3, *, deep: bool = False, **changes: Any) -> Model:
    card = make_card(classes, SlidingWindow(WINDOW, 0.5, "gaussian"), in_channels=channels, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Small(channels, card.out_channels, deep=deep)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.4)
    return Model(card, network.eval().requires_grad_(requires_grad=False))


def noise(shape: tuple[int, int, int] = (21, 17, 23), seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape))


def settings(backend: str, **changes: Any) -> InferenceSettings:
    return InferenceSettings(backend=backend, **changes)


def answers(model: Model, choice: BackendChoice, windows: Tensor, threads: int = 1) -> Tensor:
    with torch.inference_mode():
        predictor = make_predictor(model.network, model, WINDOW, InferenceSettings(threads=threads), choice)
        return predictor(windows.clone()).clone()


# -------------------------------------------------------------------- the same answer


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("deep", [False, True])
def test_scores_are_those_of_torch(channels: int, count: int, deep: bool) -> None:
    model = small_model(channels, deep=deep)
    windows = torch.randn((count, channels, *WINDOW), generator=torch.Generator().manual_seed(2))
    expected = answers(model, TORCH, windows)
    found = answers(model, OPENVINO, windows)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("choice", [TORCH, OPENVINO, BackendChoice("torch", "bf16")])
def test_answers_lie_as_the_backend_says(choice: BackendChoice) -> None:
    model = small_model()
    predictor = make_predictor(model.network, model, WINDOW, InferenceSettings(), choice)
    with torch.inference_mode():
        answer = predictor(torch.zeros(1, 1, *WINDOW))
    assert (answer.stride(1) == 1) is predictor.channels_last


@pytest.mark.parametrize("home", ["scores-linear", "logits-linear", "labels-nearest"])
@pytest.mark.parametrize("is_hoisted", [False, True])
def test_labels_at_home_are_those_of_torch(home: str, is_hoisted: bool) -> None:
    model = small_model(spacing_mm=(1.3, 0.8, 1.1), home=home)
    if is_hoisted:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            body: Any = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1, bias=False), nn.Tanh())
            head = nn.Conv3d(2, model.card.out_channels, 1, bias=False)
        network = nn.Sequential(body, head).eval().requires_grad_(requires_grad=False)
        model = replace(model, network=network)
    assert (model_parts(model, WINDOW).head is not None) is is_hoisted
    settings_of = {name: settings(name, uncertainty=True) for name in BACKENDS}
    plans = {name: plan_case([noise()], model, settings_of[name]) for name in BACKENDS}
    one, other = (predict_planned([noise()], model, settings_of[name], plans[name]) for name in BACKENDS)
    assert len(np.unique(one.labels.array)) > 2
    assert (one.labels.array == other.labels.array).mean() > 0.999
    assert one.uncertainty is not None
    assert other.uncertainty is not None
    np.testing.assert_allclose(one.uncertainty.array, other.uncertainty.array, atol=1e-4)


def test_labels_are_those_of_torch() -> None:
    one, other = (predict(noise(), small_model(), settings(name)).array for name in BACKENDS)
    assert len(np.unique(one)) > 2
    np.testing.assert_array_equal(one, other)


def test_norms_of_large_windows_are_exact() -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.PReLU()).eval()
    window = (64, 48, 80)
    image = torch.randn((1, 1, *window), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        subject = Subject(network, 1, window, "", is_from_file=False)
        found = openvino_predictor(subject, "f32", 1, NetworkCache(cache_folder()))(image.clone())
    with torch.no_grad():
        exact = network.double()(image.double())
    assert float((found - exact).abs().max()) < 1e-5  # OpenVINO's own norm: 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_input_same_bytes(backend: str) -> None:
    first, second = (predict(noise(), small_model(), settings(backend, threads=1)) for _ in range(2))
    assert first.array.tobytes() == second.array.tobytes()


# -------------------------------------------------------------------- what goes wrong


class Broken(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image * float("nan")] * 4, dim=1)


class Narrow(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image] * 4, dim=1)[..., 1:]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("network", "code"), [(Broken(), "NETWORK_NAN"), (Narrow(), "BAD_OUTPUT")])
def test_wrong_answers_are_refused(backend: str, network: nn.Module, code: str) -> None:
    model = replace(small_model(), network=network.eval())
    with pytest.raises(ModelError) as caught:
        predict(noise(), model, settings(backend))
    assert caught.value.code == code


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancel_stops_between_windows(backend: str) -> None:
    token, seen = CancelToken(), []

    def stop_at_third(progress: Progress) -> None:
        seen.append(progress.done)
        if progress.done == 3:
            token.cancel()

    with pytest.raises(CancelledError):
        predict(noise(), small_model(), settings(backend), stop_at_third, token)
    assert seen[-1] == 3


@pytest.mark.parametrize(
    "wrong",
    [{"backend": "onnx"}, {"precision": "f64"}],
)
def test_unknown_wishes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        InferenceSettings(**wrong)


def test_int8_on_torch_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        predict(noise(), small_model(), settings("torch", precision="int8"))
    assert caught.value.code == "BAD_SETTING"


def test_threads_of_the_settings_reach_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def stand_in(subject: Subject, precision: str, threads: int, cache: NetworkCache) -> Any:
        asked.append(threads)
        return openvino_predictor(subject, "f32", threads, cache)

    monkeypatch.setattr(choose, "openvino_predictor", stand_in)
    predict(noise(), small_model(), settings("openvino", threads=1))
    assert asked == [1]


def test_no_backend_leaves_traces_in_the_home_folder(tmp_path: Path) -> None:
    """OpenVINO's telemetry writes an identifier there when it is imported."""
    code = (
        "from medseg.inference.backends.quiet import import_quietly as get\n"
        "get('openvino'); get('openvino.frontend.pytorch.ts_decoder')\n"
        "import sys; assert 'openvino_telemetry' not in sys.modules"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    assert list(tmp_path.rglob("*openvino*")) == []


# -------------------------------------------------------------------- the choice


@pytest.fixture
def long_run(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(choose, "WORTH_FLOPS", 0.0)
    return small_model()


def chosen(model: Model, **wishes: Any) -> BackendChoice:
    return choose_backend([model.network], model, WINDOW, 10, InferenceSettings(**wishes))


@pytest.mark.parametrize(
    ("trial", "backend"),
    [
        (Trial(2.0, 1.0, 1e-6), "openvino"),
        (Trial(1.0, 1.0, 1e-6), "torch"),
        (Trial(2.0, 1.0, 1e-2), "torch"),
        (Trial(2.0, 1.0, float("inf")), "torch"),
    ],
)
def test_auto_takes_what_is_faster_and_equal(
    long_run: Model, monkeypatch: pytest.MonkeyPatch, trial: Trial, backend: str
) -> None:
    monkeypatch.setattr(choose, "_made_trial", lambda *_: trial)
    choice = chosen(long_run)
    assert choice.backend == backend
    assert f"{trial.ratio:.2g} times as fast" in choice.words


def test_auto_tries_and_says_what_it_found(long_run: Model) -> None:
    assert "times as fast as torch, difference" in chosen(long_run).words


def test_auto_keeps_to_torch_in_a_short_run() -> None:
    choice = chosen(small_model())
    assert (choice.backend, choice.reason) == ("torch", "too short a run to try another backend")


def test_auto_keeps_to_torch_where_a_network_cannot_be_converted(
    long_run: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Trial:
        raise ModelError("NOT_CONVERTIBLE", "expected another network")

    monkeypatch.setattr(choose, "_made_trial", refuse)
    assert chosen(long_run).backend == "torch"


def test_the_plan_says_what_runs() -> None:
    plan = plan_inference(noise().geometry, small_model(), settings("openvino"))
    assert "openvino f32 (as asked for)" in plan.sentence


def test_changed_weights_are_seen() -> None:
    model = small_model()
    windows = torch.randn((1, 1, *WINDOW), generator=torch.Generator().manual_seed(2))
    before = answers(model, OPENVINO, windows)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1.5)
    after = answers(model, OPENVINO, windows)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, answers(model, TORCH, windows), atol=1e-3, rtol=1e-4)


# -------------------------------------------------------------------- networks on disk


def kept_model() -> Model:
    return replace(small_model(), weights_sha256="0" * 64)


def test_a_converted_network_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = torch.randn((1, 1, *WINDOW), generator=torch.Generator().manual_seed(2))
    first = answers(kept_model(), OPENVINO, windows)
    from medseg.inference.backends import openvino_backend

    def refuse(*_: Any) -> Any:
        raise AssertionError("converted again")

    monkeypatch.setattr(openvino_backend, "convert_module", refuse)
    assert torch.equal(first, answers(kept_model(), OPENVINO, windows))


@pytest.mark.parametrize("name", ["network.bin", "network.xml", "entry.json"])
def test_a_damaged_network_is_made_again(name: str) -> None:
    windows = torch.randn((1, 1, *WINDOW), generator=torch.Generator().manual_seed(2))
    first = answers(kept_model(), OPENVINO, windows)
    (damaged,) = cache_folder().glob(f"*/{name}")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(bytes(content[:-1]))
    assert torch.equal(first, answers(kept_model(), OPENVINO, windows))
    assert damaged.read_bytes() != content[:-1]


def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(blocked))
    windows = torch.randn((1, 1, *WINDOW), generator=torch.Generator().manual_seed(2))
    assert answers(kept_model(), OPENVINO, windows).shape == (1, 4, *WINDOW)


def test_the_cache_is_kept_below_its_size(tmp_path: Path) -> None:
    cache = NetworkCache(tmp_path / "networks", max_bytes=3500)

    def write(folder: Path) -> None:
        (folder / "data").write_bytes(bytes(1000))

    for n in range(5):
        cache.put(f"{n:064x}", write, {"n": n})
        entry = cache.folder / f"{n:064x}" / "entry.json"
        os.utime(entry, (n, n))
    names = {path.name for path in cache.folder.iterdir()}
    assert f"{4:064x}" in names
    assert f"{0:064x}" not in names
    assert 1 <= len(names) <= 3
    found = cache.find(f"{4:064x}")
    assert found is not None
    assert found.note == {"n": 4}


def test_an_entry_names_its_files_by_their_sum(tmp_path: Path) -> None:
    cache = NetworkCache(tmp_path)

    def write(folder: Path) -> None:
        (folder / "x").write_text("1")

    entry = cache.put("a" * 64, write, {})
    assert entry is not None
    assert set(json.loads((entry.folder / "entry.json").read_text())["files"]) == {"x"}
    (entry.folder / "x").write_text("2")
    assert cache.find("a" * 64) is None
    assert not entry.folder.exists()


# -------------------------------------------------------------------- int8


def test_agreement_counts_voxels_and_the_worst_class() -> None:
    one = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    other = np.array([0, 0, 1, 0, 2, 2, 2, 2])
    found = agreement([one], [other])
    assert found.voxels == 7 / 8
    assert found.dice == pytest.approx(2 / 3)
    assert found.label == 1
    assert not found.is_enough
    assert agreement([one], [one]).is_enough
    assert agreement([one * 0], [one * 0]).dice == 1.0


@pytest.mark.parametrize("shape", [(7, 9, 11), (30, 31, 29)])
def test_sampled_windows_fit_and_hold_something(shape: tuple[int, int, int]) -> None:
    image = torch.from_numpy(noise(shape).array)[None, None]
    windows = sample_windows(image, WINDOW, -1.0)
    assert 3 <= len(windows) <= 9
    assert windows.shape[1:] == (1, *WINDOW)
    assert all(float(window.std()) > 0 for window in windows)


@pytest.mark.slow
def test_int8_is_used_only_where_it_agrees() -> None:
    pytest.importorskip("nncf")
    model = small_model()
    exact = predict(noise(), model, settings("openvino")).array
    from medseg.inference.predict import plan_case, predict_planned

    wish = settings("auto", precision="int8")
    found = predict_planned((noise(),), model, wish, plan_case((noise(),), model, wish))
    assert "int8" in found.notes[0]
    assert "voxels equal" in found.notes[0]
    if found.notes[0].startswith("f32 instead"):
        np.testing.assert_array_equal(found.labels.array, exact)
    else:
        assert (found.labels.array == exact).mean() > 0.99
