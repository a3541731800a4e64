"""Every error raised on purpose, with the exit status the command line gives it.

::

    ByeAuditError                  1
      ConfigError (ValueError)     2   an option has a value that cannot work
      InputError                   3   the source data cannot be used at all
        SourceFormatError          3   a source is not of any known format
        EmptySourceError           3   nothing to audit was found
      TableError                   4   the audit directory cannot be used
        StageNotRunError           4   an earlier stage is missing
        StaleStageError            4   a column was made by another model or run
        SchemaMismatchError        4   the tables are of another version
        StorageError               4   the disk or object store refused a read or write
      ModelError                   5   the model cannot do what is asked
        UnsupportedModelError      5   not a vision-language model this can score
        AdapterMismatchError       5   the adapter belongs to another model
        ProbeMismatchError         5   what is read is not the model's attention
        FinetuneDivergedError      5   the training loss stopped being a number
      NumericError                 6   the scores cannot be evaluated
        TooFewSamplesError         6   fewer scored samples than a mixture needs
        MixtureFitError            6   a mixture has no separation to speak of
      MissingDependencyError (ImportError)  7   an optional package is not installed
      InterruptedStageError        130 the user stopped a stage; finished work is kept

A finding is never an error: no sensitive layer, nothing removed and an inconclusive split are
answers. A single bad sample is never an error either: it is quarantined or marked.
"""

from __future__ import annotations


class ByeAuditError(Exception):
    """Base of all errors a user or a dataset can cause.

    Parameters
    ----------
    message
        One sentence: what could not be done, where, and what was found instead.
    hint
        What to do next; empty where nothing helps.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(ByeAuditError, ValueError):
    """An option has a value that cannot work."""

    exit_code = 2


class InputError(ByeAuditError):
    """The source data cannot be used at all."""

    exit_code = 3


class SourceFormatError(InputError):
    """A source is not of any known format, or is broken beyond single records."""


class EmptySourceError(InputError):
    """Nothing to audit was found in the sources."""


class TableError(ByeAuditError):
    """The audit directory cannot be used."""

    exit_code = 4


class StageNotRunError(TableError):
    """A stage needs what an earlier stage has not made yet."""


class StaleStageError(TableError):
    """Columns were made by another model, adapter or run than the one asked for."""


class SchemaMismatchError(TableError):
    """The tables were written by an incompatible version of bye-audit."""


class StorageError(TableError):
    """The disk or object store refused a read or a write."""


class ModelError(ByeAuditError):
    """The model cannot do what is asked of it."""

    exit_code = 5


class UnsupportedModelError(ModelError):
    """The path or id is not a vision-language model whose attention can be scored."""


class AdapterMismatchError(ModelError):
    """The adapter was trained on another base model."""


class ProbeMismatchError(ModelError):
    """What the probe reads from a model is not what the model attends to."""


class FinetuneDivergedError(ModelError):
    """The training loss stopped being a finite number."""


class NumericError(ByeAuditError):
    """The stored scores cannot be evaluated."""

    exit_code = 6


class TooFewSamplesError(NumericError):
    """Fewer scored samples than a two-component mixture needs."""


class MixtureFitError(NumericError):
    """A mixture has no separation that could be measured."""


class MissingDependencyError(ByeAuditError, ImportError):
    """An optional package is needed and not installed."""

    exit_code = 7


class InterruptedStageError(ByeAuditError):
    """The user stopped a stage; everything committed before is kept."""

    exit_code = 130
