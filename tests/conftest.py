"""Fixtures that many test files share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")  # a change is judged by the same examples every time

TORCH_THREADS = 2


@pytest.fixture(scope="session", autouse=True)
def _children_hear_the_keyboard() -> None:
    """A shell starts background jobs deaf to SIGINT, and their children inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests and their children leave nothing in the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public scans that lies beside the checkout on a developer's machine."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data beside the checkout: these tests need its public scans")
    return folder


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """Keep torch from taking a whole machine; does not load it where a test does without."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > TORCH_THREADS:
        torch.set_num_threads(TORCH_THREADS)
