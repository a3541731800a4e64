"""What a vision tower made of an image, kept for the next question about it.

For models whose prompts cannot share a prefix: those that read the question before the image, look
back from it into the image, or carry a recurrent state.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any


class ImageFeatureMemory:
    """Answers for a model's ``get_image_features`` as long as the image stays the same.

    Parameters
    ----------
    model
        The model without wrapper.
    """

    def __init__(self, model: Any) -> None:
        inner: Any = getattr(model, "model", None)
        self._owner: Any = inner if hasattr(inner, "get_image_features") else model
        self._key: Hashable = None
        self._features: Any = None

    @contextmanager
    def about(self, key: Hashable) -> Iterator[None]:
        """Let passes in this context take the features of the last one, if the key is the same.

        Parameters
        ----------
        key
            Equal only where the pixels are, and what is computed from them.
        """
        if not hasattr(self._owner, "get_image_features"):
            yield
            return
        compute = self._owner.get_image_features

        def remember(*args: Any, **options: Any) -> Any:
            if self._features is None or key != self._key:
                self._key, self._features = key, compute(*args, **options)
            return self._features

        # On the object, before the method of its class.
        self._owner.get_image_features = remember
        try:
            yield
        finally:
            del self._owner.get_image_features
