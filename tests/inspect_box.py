"""A box as Inspect AI's sandboxes are used, so that Inspect's own checks of what any sandbox must do can be put to it."""

from __future__ import annotations

import posixpath
from typing import Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
)

from sandbox.box import Box
from sandbox.errors import UnsupportedError
from sandbox.result import Verdict

FOLDER = "/tmp/work"  # what relative paths are relative to
CANNOT_EXECUTE = 126


class BoxEnvironment(SandboxEnvironment):
    def __init__(self, box: Box) -> None:
        super().__init__()
        self._box = box

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        stdin = input.encode() if isinstance(input, str) else input or b""
        try:
            result = await self._box.exec(cmd, stdin=stdin, env=env, cwd=_full(cwd or "."), user=user, wall_s=timeout)
        except UnsupportedError as error:
            raise SandboxUserUnsupportedError(str(error)) from error
        except ValueError as error:  # there is no such user
            return ExecResult(False, 1, "", str(error))
        if result.verdict is Verdict.WALL_TIMEOUT:
            raise TimeoutError(f"{cmd}: not done after {timeout} s")
        if result.exit_code == CANNOT_EXECUTE and "Permission denied" in result.stderr.text:
            raise PermissionError(result.stderr.text)
        code = 128 + result.signal if result.signal is not None else result.exit_code
        assert code is not None
        return ExecResult(result.ok, code, result.stdout.text, result.stderr.text)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        await self._box.write_file(_full(file), contents.encode() if isinstance(contents, str) else contents)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        try:
            data = await self._box.read_file(_full(file), max_bytes=SandboxEnvironmentLimits.MAX_READ_FILE_SIZE)
        except ValueError as error:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None) from error
        return data.decode() if text else data

    @classmethod
    async def sample_cleanup(cls, *_: object) -> None:
        """A box ends with its pool."""


def _full(path: str) -> str:
    return posixpath.join(FOLDER, path)
