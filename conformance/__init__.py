"""Whether the probe is exact on every vision-language class of the installed transformers.

Each class is built tiny and random, and the probe is held against eager attention in float64.
"""
