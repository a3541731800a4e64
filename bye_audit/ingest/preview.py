"""What ingest would make of a source: shown before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bye_audit.ingest.stage import find_all
from bye_audit.store.sources.conversation import BadRecordError
from bye_audit.store.sources.finding import AUTO, Source
from bye_audit.store.sources.images import ImageLoader

NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One record as ingest reads it.

    Parameters
    ----------
    row
        Position among the source's records, from 0.
    messages
        What is said; empty if the record would be quarantined.
    images
        Format and size of each image.
    fault
        Why the record would be quarantined, or why it could not be scored; None for others.
    """

    row: int
    messages: list[dict[str, str]]
    images: list[str]
    fault: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a source was recognised as.

    Parameters
    ----------
    path
        Of the source.
    container, format
        How its records lie in it, and whose they are.
    image_root
        The folder that image paths are relative to.
    examples
        The first few records.
    """

    path: Path
    container: str
    format: str
    image_root: Path
    examples: list[Example]


def preview_sources(
    sources: Sequence[str | Path],
    *,
    format: str = AUTO,  # noqa: A002 - the option's name
    image_root: str | Path | None = None,
    num_examples: int = NUM_EXAMPLES,
) -> Iterator[Preview]:
    """Recognise sources and read the first records of each; nothing is written.

    Parameters
    ----------
    sources, format, image_root
        As for `ingest_samples`.
    num_examples
        Records to read of each source.

    Raises
    ------
    InputError
        As for `ingest_samples`.
    """
    for source in find_all(sources, format, image_root):
        yield Preview(
            path=source.path,
            container=source.container.title,
            format=source.dialect.title,
            image_root=source.image_root,
            examples=list(islice(_examples(source), num_examples)),
        )


def _examples(source: Source) -> Iterator[Example]:
    loader = ImageLoader(source.image_root, set(), source.path.name)
    for record in source.container.records(source.path, 0):
        try:
            if record.fault is not None:
                raise record.fault
            conversation = source.dialect.read(record.value)
            found = [loader.new[loader.load(reference)] for reference in conversation.images]
        except BadRecordError as fault:
            yield Example(
                row=record.row, messages=[], images=[], fault=f"{fault.code}: {fault.detail}"
            )
            continue
        yield Example(
            row=record.row,
            messages=conversation.messages,
            images=[f"{image.format} {image.width}x{image.height}" for image in found],
            fault=conversation.unscorable and f"not scorable: it has {conversation.unscorable}",
        )
