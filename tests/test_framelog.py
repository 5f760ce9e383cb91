"""The append-only log: order, groups, damage of every kind, failing disks, writers that were overtaken, kills."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import framelog
from sandbox.framelog import FencedError, FrameLog, Record, decode, encode, read
from tests.soak import log_damage
from tests.soak.kills import ROOT


def filled(folder: Path, count: int, size: int = 20) -> list[bytes]:
    """A closed log of so many records."""
    random_bytes = random.Random(count)
    data = [random_bytes.randbytes(random_bytes.randrange(size)) for _ in range(count)]
    log = FrameLog(folder)
    assert [log.append(one).result(10) for one in data] == list(range(count))
    log.close()
    return data


def data_of(folder: Path) -> list[bytes]:
    records = read(folder)
    assert [record.order for record in records] == list(range(len(records)))
    return [record.data for record in records]


def test_what_was_acknowledged_is_read_back_by_the_next_writer(tmp_path: Path) -> None:
    first = filled(tmp_path, 10)
    log = FrameLog(tmp_path)
    assert [record.data for record in log.records] == first
    assert log.append(b"more").result(10) == 10
    log.close()
    assert data_of(tmp_path) == [*first, b"more"]


def test_a_log_that_was_cut_anywhere_is_its_longest_whole_prefix(tmp_path: Path) -> None:
    data = filled(tmp_path, 30)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    ends = [end for end, _ in decode(whole)]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert data_of(tmp_path) == data[: max(0, sum(end <= size for end in ends) - 1)]


def test_a_log_with_any_bit_flipped_is_its_longest_whole_prefix(tmp_path: Path) -> None:
    data = filled(tmp_path, 12)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    ends = [end for end, _ in decode(whole)]
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert data_of(tmp_path) == data[: max(0, sum(end <= bit // 8 for end in ends) - 1)], bit


def test_damage_of_a_large_log_is_found_wherever_it_is(tmp_path: Path) -> None:
    whole = log_damage.write_log(tmp_path)
    assert len(whole) == log_damage.LOG_BYTES
    for place in random.Random(3).sample(range(len(whole)), 60):
        assert log_damage.try_bytes(tmp_path, whole, place, place + 1) == (1, 8)


def test_what_follows_damage_is_never_read_whatever_was_written_after_it(tmp_path: Path) -> None:
    data = filled(tmp_path, 6)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])  # as a kill in the middle of a write leaves it
    log = FrameLog(tmp_path)
    assert [record.data for record in log.records] == data[:5]
    assert log.append(b"instead").result(10) == 5
    log.close()
    assert data_of(tmp_path) == [*data[:5], b"instead"]


def test_a_writer_that_was_overtaken_is_told_and_adds_nothing(tmp_path: Path) -> None:
    old = FrameLog(tmp_path)
    old.append(b"a").result(10)
    new = FrameLog(tmp_path)
    with pytest.raises(FencedError, match="taken over by the writer of 00000002"):
        old.append(b"late").result(10)
    assert new.append(b"b").result(10) == 1
    old.close()
    new.close()
    assert data_of(tmp_path) == [b"a", b"b"]


def test_a_beginning_that_was_torn_changes_nothing_before_it(tmp_path: Path) -> None:
    data = filled(tmp_path, 3)
    (tmp_path / "00000002-00000000.log").write_bytes(encode(0, b"{}")[:5])
    assert data_of(tmp_path) == data
    assert filled(tmp_path, 0) == []
    assert data_of(tmp_path) == data


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_disk_that_refuses_stops_the_acknowledgements_until_it_takes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(framelog, "RETRY_S", 0.05)
    log = FrameLog(tmp_path)
    log.append(b"before").result(10)
    real, failures = getattr(os, call), [3]

    def refuse(*arguments: object) -> object:
        if failures[0]:
            failures[0] -= 1
            if call == "write":
                real(arguments[0], bytes(arguments[1])[:7])  # type: ignore[call-overload]  # a part of it got there
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(framelog.os, call, refuse)
    done = log.append(b"held up")
    assert done.result(10) == 1
    assert not failures[0]
    assert log.trouble is None
    assert log.append(b"after").result(10) == 2
    log.close()
    assert data_of(tmp_path) == [b"before", b"held up", b"after"]


def test_a_disk_that_goes_on_refusing_is_told_when_the_log_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FrameLog(tmp_path)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(framelog.os, "fdatasync", refuse)
    done = log.append(b"lost")
    while log.trouble is None:
        pass
    log.close()
    with pytest.raises(OSError, match="Input/output error"):
        done.result(10)


def test_a_log_goes_on_in_a_new_segment_when_one_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framelog, "SEGMENT_BYTES", 200)
    data = filled(tmp_path, 50)
    assert len(list(tmp_path.iterdir())) > 3
    assert data_of(tmp_path) == data


def test_killed_while_it_writes_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sandbox.framelog import FrameLog\n"
        "log = FrameLog(Path(sys.argv[1])); start = len(log.records)\n"
        "for i in range(start, 1 << 30):\n"
        "    print(log.append(b'%d' % i).result(), flush=True)\n"
    )
    acknowledged = 0
    for _ in range(5):
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(random.randrange(20, 60)):
                acknowledged = int(process.stdout.readline()) + 1
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split()
        acknowledged = int(rest[-1]) + 1 if rest else acknowledged
        found = data_of(tmp_path)
        assert len(found) >= acknowledged
        assert found == [b"%d" % i for i in range(len(found))]


def test_a_record_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode(0, bytes(framelog.MAX_RECORD_BYTES + 1))
    assert list(decode(encode(7, b"x"))) == [(17, Record(7, b"x"))]
