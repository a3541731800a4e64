"""What others published, to stand beside what is measured here. In per cent, as printed.

"Believe Your Eyes" is arXiv:2505.16916; LLaVA-1.5-7B, 10 % poison. TCAP is arXiv:2601.21692;
InternVL2.5-8B on ScienceQA, 10 % poison, as far as its figures are known to us at second hand.
"""

from __future__ import annotations

BYE_F1 = {"ScienceQA": 96.71, "IconQA": 92.65, "Flickr30k": 87.38, "RSVQA": 99.60}
"""Table 2, LLaVA."""

BYE_ASR_AFTER = {"ScienceQA": 0.05, "IconQA": 0.00, "Flickr30k": 1.40, "RSVQA": 0.00}
"""Table 1, LLaVA."""

BYE_BY_TRIGGER = {
    "patch": (98.82, 94.69, 96.71),
    "random-position": (92.93, 93.08, 93.56),
    "texture": (80.10, 95.81, 87.22),
    "fixed-dual": (92.48, 97.10, 94.73),
    "varied-multi": (78.81, 88.56, 83.40),
}
"""Precision, recall and F1 by trigger; tables 3 and 6, ScienceQA, LLaVA. The F1 of the random
position does not follow from its precision and recall (93.00 would)."""

BYE_BY_THRESHOLD = {
    0.0: 63.93,
    0.5: 78.95,
    1.0: 93.68,
    1.5: 94.16,
    2.0: 96.71,
    2.5: 96.19,
    3.0: None,
}
"""F1 by BSI threshold; table 5. At 3.0 no layer is sensitive."""

BYE_BY_CLUSTERING = {"threshold": 71.52, "kmeans": 96.71, "gmm": 96.71}
"""F1 by clustering; table 7, ScienceQA, LLaVA."""

TCAP_F1 = {
    "patch": (97.87, 100.00),
    "blended": (0.00, 98.34),
    "sig": (9.94, 92.11),
    "wanet": (4.01, 99.20),
    "ftrojan": (9.58, 85.24),
}
"""F1 of BYE and of TCAP by trigger, both as TCAP's authors ran them."""
