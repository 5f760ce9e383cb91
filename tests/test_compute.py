"""The compute thread: an order, results, errors, what was cancelled in time."""

from __future__ import annotations

import threading

import pytest

from rl.compute import submit


def test_work_runs_in_one_thread_in_order() -> None:
    seen: list[int] = []
    threads = [submit(lambda i=i: (seen.append(i), threading.get_ident())[1]) for i in range(20)]  # type: ignore[misc]
    assert len({future.result(10) for future in threads}) == 1
    assert seen == list(range(20))


def test_an_error_reaches_whoever_waits_and_the_thread_goes_on() -> None:
    def failing() -> None:
        raise SystemExit("no")

    with pytest.raises(SystemExit, match="no"):
        submit(failing).result(10)
    assert submit(lambda: 3).result(10) == 3


def test_what_is_cancelled_in_time_never_runs() -> None:
    go, ran = threading.Event(), list[str]()
    first = submit(lambda: go.wait(10))
    second = submit(lambda: ran.append("second"))
    assert second.cancel()
    go.set()
    assert first.result(10)
    submit(lambda: None).result(10)
    assert ran == []
