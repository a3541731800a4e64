"""An image processor that remembers: many questions ask about the same few images."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from PIL import Image
from transformers import BatchFeature

_MOST_REMEMBERED = 4


class RememberingImageProcessor:
    """Stands in for an image processor and makes the tensors of the same images only once.

    Images are told apart by identity, not content, so that looking costs nothing.

    Parameters
    ----------
    inner
        The image processor that does the work; everything but calling goes straight to it.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._made: OrderedDict[tuple[Any, ...], tuple[Any, BatchFeature]] = OrderedDict()

    def __call__(self, images: Any, *args: Any, **options: Any) -> BatchFeature:
        """Process images, or give again what was made of the same ones in the same way."""
        identities = _identities(images)
        if identities is None or args:
            return self._inner(images, *args, **options)
        key = (identities, repr(sorted(options.items(), key=lambda item: item[0])))
        if key not in self._made:
            # The images are kept too: an identity is only good as long as its object lives.
            self._made[key] = (images, self._inner(images, **options))
            if len(self._made) > _MOST_REMEMBERED:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        # Processors take entries out of what they are given.
        return BatchFeature(dict(self._made[key][1]))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __getstate__(self) -> Any:
        """Travel to another process without what is remembered."""
        return self._inner

    def __setstate__(self, inner: Any) -> None:
        self.__init__(inner)  # type: ignore[misc]


def _identities(images: Any) -> Any:
    """Nested tuples of image identities; None where something else is among them."""
    if isinstance(images, Image.Image):
        return id(images)
    if isinstance(images, list | tuple):
        inner = tuple(_identities(image) for image in images)
        return None if None in inner else inner
    return None
