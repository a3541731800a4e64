"""What others published, to stand beside what is measured here. In per cent, as printed.

"Believe Your Eyes" is arXiv:2505.16916, 10 % poison. TCAP is arXiv:2601.21692; InternVL2.5-8B on
ScienceQA, 10 % poison, as far as its figures are known to us at second hand.
"""

from __future__ import annotations

DATASETS = ("ScienceQA", "IconQA", "Flickr30k", "RSVQA")
"""Columns of the tables below."""

CP_AND_ASR = {
    "LLaVA-1.5-7B": {
        "no defence": ((91.72, 97.32), (80.51, 87.85), (71.03, 82.80), (72.01, 99.90)),
        "random drop": ((89.54, 97.12), (81.00, 81.82), (67.62, 81.50), (72.38, 99.72)),
        "ZIP": ((79.97, 66.48), (77.60, 67.97), (36.88, 6.60), (62.57, 5.78)),
        "BYE": ((89.64, 0.05), (83.39, 0.00), (70.62, 1.40), (72.81, 0.00)),
    },
    "InternVL2.5-8B": {
        "no defence": ((91.47, 97.12), (89.96, 92.13), (48.55, 76.60), (65.21, 99.76)),
        "random drop": ((91.91, 93.41), (89.47, 92.63), (47.76, 76.20), (65.43, 98.34)),
        "ZIP": ((70.50, 73.47), (86.89, 75.77), (29.62, 34.00), (54.44, 10.31)),
        "BYE": ((92.07, 8.97), (89.98, 6.87), (47.17, 12.40), (66.09, 7.18)),
    },
}
"""Table 1: clean performance (CIDEr on Flickr30k, accuracy elsewhere) and attack success rate."""

PRECISION_RECALL_F1 = {
    "LLaVA-1.5-7B": (
        (98.82, 94.69, 96.71),
        (99.87, 86.40, 92.65),
        (95.82, 80.30, 87.38),
        (99.80, 99.40, 99.60),
    ),
    "InternVL2.5-8B": (
        (92.40, 97.91, 95.08),
        (98.91, 91.00, 94.79),
        (95.74, 82.00, 88.34),
        (99.11, 99.80, 99.45),
    ),
}
"""Table 2: of BYE."""

BY_TRIGGER = {
    "patch": (89.64, 0.05, 98.82, 94.69, 96.71),
    "fixed-dual": (88.42, 0.10, 92.48, 97.10, 94.73),
    "varied-multi": (87.95, 1.16, 78.81, 88.56, 83.40),
    "random-position": (89.59, 0.19, 92.93, 93.08, 93.56),
    "texture": (87.95, 0.04, 80.10, 95.81, 87.22),
}
"""Tables 3 and 6: CP, ASR, precision, recall and F1; ScienceQA, LLaVA. The F1 of the random
position does not follow from its precision and recall (93.00 would)."""

BY_THRESHOLD = {
    0.0: (48.13, 95.17, 63.93),
    0.5: (67.78, 94.52, 78.95),
    1.0: (96.90, 90.66, 93.68),
    1.5: (97.75, 90.82, 94.16),
    2.0: (98.82, 94.69, 96.71),
    2.5: (96.74, 95.65, 96.19),
    3.0: None,
}
"""Table 5: precision, recall and F1 by BSI threshold. At 3.0 no layer is sensitive."""

F1_BY_CLUSTERING = {
    "LLaVA-1.5-7B": {
        "threshold": (71.52, 32.07, 72.06, 28.99),
        "kmeans": (96.71, 90.26, 87.33, 99.35),
        "gmm": (96.71, 92.65, 87.38, 99.60),
    },
    "InternVL2.5-8B": {
        "threshold": (56.92, 58.56, 26.58, 51.48),
        "kmeans": (95.28, 94.83, 85.01, 99.50),
        "gmm": (95.08, 94.79, 88.34, 99.45),
    },
}
"""Table 7. Of Figure 4 the paper prints no numbers."""

TCAP_F1 = {
    "patch": (97.87, 100.00),
    "blended": (0.00, 98.34),
    "sig": (9.94, 92.11),
    "wanet": (4.01, 99.20),
    "ftrojan": (9.58, 85.24),
    "text-prefix": (None, 100.00),
}
"""F1 of BYE and of TCAP by trigger, both as TCAP's authors ran them."""

TCAP_BLENDED: dict[str, dict[str, tuple[float, float] | None]] = {
    "InternVL2.5-8B": {
        "no defence": (96.88, 93.60),
        "BYE": (89.49, 91.42),
        "TCAP": (96.93, 0.15),
    },
    "LLaVA-NeXT-8B": {"no defence": None, "BYE": (0.00, 100.00), "TCAP": (89.44, 0.05)},
    "Qwen3-VL-8B": {"no defence": (96.58, 86.17), "BYE": None, "TCAP": (96.68, 15.62)},
}
"""CP and ASR after cleaning, blended trigger, ScienceQA; None where it is not known to us."""
