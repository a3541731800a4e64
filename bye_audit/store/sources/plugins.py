"""Readers that other packages bring along, found by their entry points."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TypeVar

from bye_audit.errors import ConfigError

T = TypeVar("T")


def load_plugins(group: str, kind: type[T]) -> Iterator[T]:
    """Load what installed packages offer under an entry point.

    Raises
    ------
    ConfigError
        If it cannot be loaded, or is of another kind.
    """
    for point in entry_points(group=group):
        package = point.dist.name if point.dist else "a package"
        try:
            found = point.load()
        except Exception as error:  # another package's code may raise anything
            raise ConfigError(
                f"{point.value}, which {package} offers as {group}, cannot be loaded: {error}.",
                hint=f"Mend or uninstall {package}.",
            ) from error
        if not isinstance(found, kind):
            raise ConfigError(
                f"{point.value} is no {kind.__name__}, which {group} asks for.",
                hint=f"Mend or uninstall {package}.",
            )
        yield found
