"""Libraries that quote a patient's values stay silent as long as any thread needs it, and no longer."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest

from medseg.io.dicom_quiet import quiet_libraries


def test_threads_that_overlap_neither_leak_nor_stay_silent(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("pydicom")
    before = (log.propagate, log.handlers[:], warnings.filters[:])
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with quiet_libraries():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with quiet_libraries():
            second_is_in.set()
            first_is_out.wait(10)
            log.warning("CANARY^NAME")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert "CANARY" not in caplog.text
    assert (log.propagate, log.handlers[:], warnings.filters[:]) == before
    log.warning("heard again")
    assert "heard again" in caplog.text


def test_an_error_inside_undoes_it_too() -> None:
    log = logging.getLogger("highdicom")
    before = log.propagate
    with pytest.raises(KeyError), quiet_libraries(), quiet_libraries():
        raise KeyError
    assert log.propagate == before
