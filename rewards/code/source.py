"""The code that is sent into a box, made of modules that import nothing but each other and the standard library."""

from __future__ import annotations

import functools
import inspect
import marshal
import re
from importlib.util import MAGIC_NUMBER
from types import ModuleType

from rewards.code import asserts, beside, program, shim, values

_LEFT_OUT = re.compile(r"^from (?:__future__|rewards\.code\.\w+) import (?:\([^)]*\)|[^\n(]*)\n", re.MULTILINE)
# Compiling takes as long as running a few tests, so compiled code goes along for a box whose Python has the same format.
_LOADING = """
import _frozen_importlib_external, marshal
same = _frozen_importlib_external.MAGIC_NUMBER == {magic!r}
exec(marshal.loads(bytes.fromhex({code!r})) if same else compile({text!r}, "<box>", "exec"), globals())
"""


@functools.cache
def running() -> str:
    """Source that defines `run` of `rewards.code.beside`."""
    return _loading(joined(values, program, beside))


@functools.cache
def checking() -> str:
    """Source that defines `check` of `rewards.code.asserts`."""
    return _loading(joined(values, shim, asserts))


def joined(*modules: ModuleType) -> str:
    """One text of several modules, without what they import of each other."""
    texts = [_LEFT_OUT.sub("", inspect.getsource(module)) for module in modules]
    return "\n".join(["from __future__ import annotations", *texts])


def _loading(text: str) -> str:
    code = compile(text, "<box>", "exec", dont_inherit=True, optimize=2)
    return _LOADING.format(magic=MAGIC_NUMBER, code=marshal.dumps(code).hex(), text=text)
