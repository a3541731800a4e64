"""Stage between score and filter: what the model says once an image is purified."""

from bye_audit.purify.stage import PurifyResult, purify_samples

__all__ = ["PurifyResult", "purify_samples"]
