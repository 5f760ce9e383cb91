"""Archives that images are built from: what is unpacked, and what is refused."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sandbox import images
from sandbox.images import unpack


def archive(path: Path, *members: tuple[str, bytes, dict[str, object]]) -> Path:
    """A tar file with these entries: name, content, and other fields."""
    with tarfile.open(path, "w") as tar:
        for name, content, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return path


def link(target: str) -> dict[str, object]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


def test_a_root_is_unpacked_with_its_links_and_modes(tmp_path: Path) -> None:
    given = archive(
        tmp_path / "a.tar",
        ("./", b"", {"type": tarfile.DIRTYPE, "mode": 0o755}),
        ("./usr/bin/", b"", {"type": tarfile.DIRTYPE, "mode": 0o755}),
        ("./usr/bin/tool", b"run", {"mode": 0o4755}),
        ("./usr/bin/same", b"", {"type": tarfile.LNKTYPE, "linkname": "./usr/bin/tool", "mode": 0o4755}),
        ("./bin", b"", link("usr/bin")),
        ("./etc/up", b"", link("../../../etc/passwd")),  # leads to the box's own root
        ("./dev/null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
    )
    root = tmp_path / "root"
    unpack(given, root)
    assert (root / "usr/bin/same").read_bytes() == b"run"
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert os.readlink(root / "bin") == "usr/bin"
    assert not (root / "dev/null").exists()


@pytest.mark.parametrize(
    "members",
    [
        [("../out", b"x", {})],
        [("a/../../out", b"x", {})],
        [("a", b"", link("/tmp")), ("a/out", b"x", {})],
        [("a", b"", link("..")), ("a/out", b"x", {})],
        [("a", b"", {"type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"})],
        [("a", b"", link("/etc")), ("b", b"", {"type": tarfile.LNKTYPE, "linkname": "a/passwd"})],
    ],
)
def test_what_would_reach_beyond_the_root_is_refused(
    tmp_path: Path, members: list[tuple[str, bytes, dict[str, object]]]
) -> None:
    with pytest.raises(ValueError, match=r"leads outside|goes through a link"):
        unpack(archive(tmp_path / "a.tar", *members), tmp_path / "root")
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "root"]


def test_an_absolute_name_is_below_the_root(tmp_path: Path) -> None:
    unpack(archive(tmp_path / "a.tar", ("/etc/mine", b"x", {})), tmp_path / "root")
    assert (tmp_path / "root/etc/mine").read_bytes() == b"x"


def test_a_later_entry_does_not_write_through_an_earlier_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("before")
    unpack(archive(tmp_path / "a.tar", ("a", b"", link(str(outside))), ("a", b"x", {})), tmp_path / "root")
    assert outside.read_text() == "before"
    assert (tmp_path / "root/a").read_bytes() == b"x"


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = archive(tmp_path / "many.tar", *((f"f{i}", b"", {}) for i in range(20)))
    monkeypatch.setattr(images, "MAX_ENTRIES", 10)
    with pytest.raises(ValueError, match="more than 10 entries"):
        unpack(many, tmp_path / "many")
    monkeypatch.setattr(images, "MIN_RATIO_BYTES", 1000)
    with tarfile.open(tmp_path / "zeros.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 10_000_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(ValueError, match="more than 200 times its size"):
        unpack(tmp_path / "zeros.tar.gz", tmp_path / "zeros")
