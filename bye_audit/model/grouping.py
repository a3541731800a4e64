"""Which prompts go through the model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bye_audit.model.encodings import Encoding


def group_by_prefix(encodings: Sequence[Encoding]) -> list[list[int]]:
    """Find prompts that are equal to the end of the same images, two or more of each.

    Returns
    -------
    list[list[int]]
        Indices; prompts that share with no other are in none.
    """
    groups: dict[tuple[tuple[str, ...], bytes], list[int]] = {}
    for index, encoding in enumerate(encodings):
        # Without a name of the image nothing says that two are the same; and a prompt that ends
        # with its image leaves no question to ride on it.
        if encoding.image_ids and encoding.image_end < encoding.prompt_length:
            prefix = encoding.inputs["input_ids"][0, : encoding.image_end].numpy().tobytes()
            groups.setdefault((encoding.image_ids, prefix), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def group_by_images(encodings: Sequence[Encoding], chosen: Sequence[int]) -> list[list[int]]:
    """Find prompts about the same images, wherever these stand, two or more of each."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index in chosen:
        if encodings[index].image_ids:
            groups.setdefault(encodings[index].image_ids, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def batch_by_length(
    encodings: Sequence[Encoding], chosen: Sequence[int], max_tokens: int, *, pads: bool
) -> Iterator[list[int]]:
    """Cut into batches of like length, shortest first.

    Parameters
    ----------
    encodings
        All there are.
    chosen
        Indices of those wanted.
    max_tokens
        Most positions of a batch, padding counted; a longer prompt goes alone.
    pads
        Whether prompts of unlike lengths may share a batch.

    Yields
    ------
    list[int]
        Indices, each once.
    """
    batch: list[int] = []
    for index in sorted(chosen, key=lambda i: (encodings[i].prompt_length, encodings[i].length, i)):
        longest = max(encodings[i].length for i in [*batch, index])
        is_unlike = batch and encodings[batch[0]].prompt_length != encodings[index].prompt_length
        if batch and (longest * (len(batch) + 1) > max_tokens or (is_unlike and not pads)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
