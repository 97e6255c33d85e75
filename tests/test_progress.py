"""Laws of progress and cancelling."""

from __future__ import annotations

import threading

import pytest

from medseg.errors import CancelledError
from medseg.progress import CancelToken, Progress, ProgressCallback, silent


@pytest.mark.parametrize(
    ("done", "total", "fraction"), [(0, 4, 0.0), (1, 4, 0.25), (4, 4, 1.0), (9, 4, 1.0), (3, 0, 0.0)]
)
def test_fraction(done: int, total: int, fraction: float) -> None:
    assert Progress("segment", done, total).fraction == fraction


def test_silence_is_a_callback_that_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    callback: ProgressCallback = silent
    callback(Progress("segment", 1, 2))
    assert capfd.readouterr() == ("", "")


def test_a_fresh_token_lets_work_go_on() -> None:
    token = CancelToken()
    token.check()
    assert not token.cancelled


def test_a_token_raised_by_another_thread_stops_the_work() -> None:
    token = CancelToken()
    thread = threading.Thread(target=token.cancel)
    thread.start()
    thread.join()
    assert token.cancelled
    with pytest.raises(CancelledError):
        token.check()
