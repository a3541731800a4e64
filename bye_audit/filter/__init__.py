"""Stage 5: a verdict for every sample, the cleaned split and the record of how it came about."""

from bye_audit.filter.stage import FilterResult, filter_samples

__all__ = ["FilterResult", "filter_samples"]
