"""Images in layers, stored once by content: each layer is an EROFS file named by its hash, an image is a list of layers.

A box's root is composed of them when it is created (`sandbox/layers/`), nothing is copied, and all boxes on a machine share one
page cache. What comes in an archive is checked before it is unpacked: see `unpack`.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from sandbox.errors import UnsupportedError

NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,100}(:[a-zA-Z0-9._-]{1,60})?")
MAX_ENTRIES = 2_000_000
MAX_UNPACKED_BYTES = 64 << 30
MAX_RATIO = 200  # of what comes out to what goes in, beyond the first MIN_RATIO_BYTES
MIN_RATIO_BYTES = 1 << 30
# Of a layer's file system, so that the same files give the same bytes: the time it was made, and its name. Later times than the
# former would be cut to it; the files keep theirs, by which Python knows what it has compiled from what it has not.
NEVER, NO_UUID = "4102444800", "00000000-0000-0000-0000-000000000000"
DEBIAN = "bookworm"
INCLUDED = {"debian": "python3,procps", "debian-vm": "python3,procps,systemd-sysv"}  # packages, by source


@dataclass(frozen=True)
class Image:
    """A name and its layers, the base first; `source` says what it was built from."""

    name: str
    layers: tuple[str, ...]
    source: str
    created: float  # seconds since 1970


class Images:
    """The images of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Image]:
        found = [self._load(path) for path in sorted((self.folder / "names").glob("*.json"))]
        return sorted(found, key=lambda image: image.name)

    def get(self, name: str) -> Image:
        """The image of this name.

        Raises:
            UnsupportedError: there is none; says which there are.
        """
        path = self._path(name)
        if not path.exists():
            names = ", ".join(image.name for image in self.all()) or "none"
            raise UnsupportedError(
                f"image: got {name!r}; there are: {names}; build one with `polymath sandbox image build NAME debian`"
            )
        return self._load(path)

    def layer(self, digest: str) -> Path:
        return self.folder / "layers" / f"{digest}.erofs"

    def size_bytes(self, image: Image) -> int:
        return sum(self.layer(digest).stat().st_size for digest in image.layers)

    def add(self, name: str, roots: Sequence[Path], source: str, below: Sequence[str] = ()) -> Image:
        """An image whose top layers are these folders' contents, on the layers of another one."""
        self.check_name(name)
        image = Image(name, (*below, *(self._add_layer(root) for root in roots)), source, time.time())
        self._save(image)
        return image

    def _add_layer(self, root: Path) -> str:
        layers = self.folder / "layers"
        layers.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=layers) as temporary:
            path = Path(temporary, "layer.erofs")
            _run(["mkfs.erofs", "--quiet", "-U", NO_UUID, str(path), str(root)], SOURCE_DATE_EPOCH=NEVER)
            digest = _digest(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(path, self.layer(digest))  # the same content is the same file
        return digest

    def build(self, name: str, source: str, below: str | None = None) -> Image:
        """From `debian`, `debian-vm` (with systemd), `docker:NAME`, a tar archive, or a folder.

        `below` is the image that it is put on.

        Raises:
            ValueError: the archive or the name is refused. UnsupportedError: a tool is missing, with the command that adds it.
        """
        self.check_name(name)
        lower = self.get(below).layers if below is not None else ()
        with tempfile.TemporaryDirectory(dir=_made(self.folder)) as temporary:
            root = Path(temporary, "root")
            if source in INCLUDED:
                archive = Path(temporary, "root.tar")
                included = f"--include={INCLUDED[source]}"
                _run(["mmdebstrap", "--quiet", "--variant=minbase", included, DEBIAN, str(archive)])
                unpack(archive, root)
            elif source.startswith("docker:"):
                archive = Path(temporary, "root.tar")
                with _container(source.removeprefix("docker:")) as container:
                    _run(["docker", "export", "--output", str(archive), container])
                unpack(archive, root)
            elif Path(source).is_dir():
                return self.add(name, [Path(source)], source, lower)
            elif Path(source).is_file():
                unpack(Path(source), root)
            else:
                raise ValueError(
                    f"source: got {source!r}; give `debian`, `debian-vm`, `docker:NAME`, a tar archive, or a folder"
                )
            return self.add(name, [root], source, lower)

    def remove(self, name: str) -> int:
        """Forgets a name, and every layer that no image has any more; how many bytes that frees."""
        image = self.get(name)
        self._path(name).unlink()
        used = {digest for other in self.all() for digest in other.layers}
        freed = 0
        for digest in set(image.layers) - used:
            freed += self.layer(digest).stat().st_size
            self.layer(digest).unlink()
        return freed

    def _path(self, name: str) -> Path:
        self.check_name(name)
        return self.folder / "names" / f"{name.replace('/', '%')}.json"

    def check_name(self, name: str) -> None:
        """Raises ValueError where no image can be called so."""
        if not NAME.fullmatch(name):
            raise ValueError(f"image: got {name!r}; a name is like `debian`, `team/repo` or `tools:2`")

    def _load(self, path: Path) -> Image:
        words = json.loads(path.read_text())
        return Image(**{**words, "layers": tuple(words["layers"])})

    def _save(self, image: Image) -> None:
        path = self._path(image.name)
        _made(path.parent)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(image)))
        os.replace(temporary, path)


def unpack(archive: Path, root: Path) -> None:
    """Unpacks a tar archive below `root`, as root with its owners, and refuses what could reach beyond it.

    Raises:
        ValueError: it is no archive, a path or a link leads outside, or it is more than the bounds on entries, bytes or ratio.
    """
    root.mkdir()
    try:
        _unpack(archive, root)
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{archive.name}: no tar archive, or a broken one: {error}") from error


def _unpack(archive: Path, root: Path) -> None:
    packed, unpacked = archive.stat().st_size, 0
    with tarfile.open(archive) as tar:
        for count, member in enumerate(tar):
            unpacked += member.size
            if count > MAX_ENTRIES or unpacked > MAX_UNPACKED_BYTES:
                raise ValueError(f"{archive.name}: more than {MAX_ENTRIES} entries or {MAX_UNPACKED_BYTES >> 30} GiB")
            if unpacked > max(MIN_RATIO_BYTES, MAX_RATIO * packed):
                raise ValueError(f"{archive.name}: unpacks to more than {MAX_RATIO} times its size")
            _extract(tar, member, root)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    parts = PurePosixPath(member.name).parts
    inner = [part for part in parts if part not in ("/", ".")]
    if ".." in inner or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        if member.ischr() or member.isblk() or member.isfifo():
            return  # a box gets its own /dev
        raise ValueError(f"{tar.name!r}: entry {member.name!r} leads outside or is of no known kind")
    parent = root
    for part in inner[:-1]:
        parent = parent / part
        if parent.is_symlink():
            raise ValueError(f"{tar.name!r}: entry {member.name!r} goes through a link")
    if member.islnk():
        target = [part for part in PurePosixPath(member.linkname).parts if part not in ("/", ".")]
        if ".." in target or any(root.joinpath(*target[: i + 1]).is_symlink() for i in range(len(target))):
            raise ValueError(f"{tar.name!r}: entry {member.name!r} is a link to {member.linkname!r}, which leads outside")
        member = member.replace(linkname="/".join(target), deep=False)
    safe = member.replace(name="/".join(inner) or ".", deep=False)
    path = root.joinpath(*inner)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        path.unlink()  # the later entry counts, and is not written through a link
    tar.extract(safe, root, numeric_owner=True, filter="fully_trusted", set_attrs=True)
    if not (member.issym() or member.islnk()):
        os.chmod(path, stat.S_IMODE(member.mode))


@contextmanager
def _container(image: str) -> Iterator[str]:
    container = _run(["docker", "create", image, "true"]).strip()
    try:
        yield container
    finally:
        _run(["docker", "rm", container])


def _run(command: Sequence[str], **environment: str) -> str:
    if shutil.which(command[0]) is None:
        package = {"mkfs.erofs": "erofs-utils", "mmdebstrap": "mmdebstrap", "docker": "docker.io"}[command[0]]
        raise UnsupportedError(f"{command[0]} is missing: apt-get install {package}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode:
        raise ValueError(f"{' '.join(command[:3])} ... failed: {done.stderr.strip()[-1000:]}")
    return done.stdout


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
