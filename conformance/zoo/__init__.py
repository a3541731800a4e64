"""Every architecture that can be built: importing a module enters its specimens into the zoo."""

from __future__ import annotations

import importlib
import pkgutil


def load_all() -> None:
    """Import all modules of this package."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
