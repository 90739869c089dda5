"""Modules that are imported when they are first used: a config error must not wait seconds for torch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


def lazy_import(name: str) -> Any:
    """A stand-in for the module `name`; reading an attribute imports the module.

    For type checkers, import the module itself:

        if TYPE_CHECKING:
            import torch
        else:
            torch = lazy_import("torch")
    """
    return _LazyModule(name)


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)
