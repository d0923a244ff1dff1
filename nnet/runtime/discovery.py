"""Finding the classes that the modules of a package define."""

import importlib
import pkgutil
from types import ModuleType


def classes_in(package: ModuleType, base: type) -> dict[str, type]:
    """The subclasses of `base` by their `name`, of all modules of the package, ordered by module."""
    found = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        members = vars(importlib.import_module(f"{package.__name__}.{module}")).values()
        found |= {m.name: m for m in members if isinstance(m, type) and issubclass(m, base) and m is not base}
    return found
