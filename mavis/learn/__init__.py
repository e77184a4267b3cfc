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
    # The file is known without an import, so that `inspect`, which asks all modules, causes none.
    _module.__spec__ = _spec = find_spec(_new)
    _module.__file__ = _spec.origin if _spec else None
    _module.__getattr__ = partial(_current, _new)  # type: ignore[method-assign]
    globals()[_old.rpartition(".")[2]] = _module
