"""Former names of modules: plugins and stored configurations name classes by them.

Each leads to the module as it is now, which is imported when something of it is asked for.
"""

import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mavis.versions import MOVED


def _current(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


for _old, _new in MOVED.items():
    _module = sys.modules[_old] = ModuleType(_old, f"The former name of `{_new}`.")
    _module.__spec__ = find_spec(_new)  # for `importlib.util.find_spec`
    _module.__getattr__ = partial(_current, _new)  # type: ignore[method-assign]
    globals()[_old.rpartition(".")[2]] = _module
