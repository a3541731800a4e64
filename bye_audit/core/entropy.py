"""Shannon entropy of attention over image tokens: the reference every faster version must match.

Shapes: N = samples, T = image tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def attention_entropy(
    attention_NT: ArrayLike, mask_NT: ArrayLike | None = None, *, renormalize: bool = True
) -> NDArray[np.float64]:
    r"""Entropy of one layer's head-averaged attention to the image tokens.

    Parameters
    ----------
    attention_NT
        Head-averaged attention of the first decoding token (Eq. 4), not negative.
    mask_NT
        True where a token belongs to the image. None: all of them do.
    renormalize
        Divide by the attention's sum over the image tokens first, so that the weights add to 1
        and the entropy lies in [0, log T]. Without it Eq. 5 is taken literally.

    Returns
    -------
    numpy.ndarray
        One entropy a sample, in nats; **lower is more collapsed**. NaN where a sample gives its
        image no attention at all (or has no image token): the entropy has no value there, and
        whoever stores it stores null.

    Raises
    ------
    ValueError
        If the shapes differ or an attention weight is negative or not finite.

    Notes
    -----
    Equation 5 of [1]_:

    .. math:: H = - \sum_{t=1}^{T} A_t \log A_t

    Departs from the paper: Eq. 5 does not say whether the weights are renormalised over the image
    tokens; they are here, as in the paper's released code. That code also adds 1e-8 inside the
    logarithm, which moves the entropy by less than 1e-5 nats and is left out.

    References
    ----------
    .. [1] Rong et al., "Backdoor Cleaning without External Guidance in MLLM Fine-tuning", 2025.
       arXiv:2505.16916, section 4.2.

    Examples
    --------
    >>> attention_entropy([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]).round(4).tolist()
    [1.3863, 0.0]
    """
    weight_NT = np.atleast_2d(np.asarray(attention_NT, dtype=np.float64))
    if weight_NT.ndim != 2:
        raise ValueError(f"attention must have samples and tokens, got shape {weight_NT.shape}")
    if mask_NT is not None:
        is_image_NT = np.broadcast_to(np.asarray(mask_NT, dtype=bool), weight_NT.shape)
        weight_NT = np.where(is_image_NT, weight_NT, 0.0)
    if not np.isfinite(weight_NT).all() or (weight_NT < 0).any():
        raise ValueError("attention weights must be finite and not negative")
    mass_N = weight_NT.sum(axis=1)
    has_mass_N = mass_N > 0
    if renormalize:
        # Scaled by the largest weight first: a sum of denormal numbers has too few digits left.
        peak_N = weight_NT.max(axis=1, initial=0.0)
        weight_NT = weight_NT / np.where(has_mass_N, peak_N, 1.0)[:, None]
        weight_NT = weight_NT / np.where(has_mass_N, weight_NT.sum(axis=1), 1.0)[:, None]
    log_NT = np.log(weight_NT, out=np.zeros_like(weight_NT), where=weight_NT > 0)
    # + 0.0 turns the -0.0 of a one-hot row into 0.0.
    entropy_N = -(weight_NT * log_NT).sum(axis=1) + 0.0
    return np.where(has_mass_N, entropy_N, np.nan)


def normalized_entropy(entropy_N: ArrayLike, num_image_tokens_N: ArrayLike) -> NDArray[np.float64]:
    """Entropy as a share of the largest that this number of tokens allows.

    Parameters
    ----------
    entropy_N
        Entropies in nats, one or more columns.
    num_image_tokens_N
        Image tokens T of each sample.

    Returns
    -------
    numpy.ndarray
        ``H / log T`` in [0, 1]; NaN where T is below 2, where every entropy is 0 and means nothing.

    Notes
    -----
    Departs from the paper: there T is 576 for every sample, so that raw entropies compare. Where T
    varies they do not: the size of an image alone would make the entropies look bimodal.
    """
    entropy = np.asarray(entropy_N, dtype=np.float64)
    num_tokens = np.asarray(num_image_tokens_N, dtype=np.float64)
    largest = np.full(num_tokens.shape, np.nan)
    np.log(num_tokens, out=largest, where=num_tokens >= 2)
    return np.asarray(entropy / (largest if entropy.ndim == 1 else largest[:, None]))


def literal_entropy(entropy_N: ArrayLike, image_mass_N: ArrayLike) -> NDArray[np.float64]:
    r"""Eq. 5 on attention that was not renormalised, from what is stored of it.

    Parameters
    ----------
    entropy_N
        Entropies in nats of the attention renormalised over the image tokens; any shape.
    image_mass_N
        Share of the attention that the image tokens get as a whole, in [0, 1]; same shape.

    Returns
    -------
    numpy.ndarray
        In nats; NaN where an entropy is.

    Notes
    -----
    With weights :math:`A_t = m p_t` of sum m,
    :math:`-\sum_t A_t \log A_t = m H(p) - m \log m`, so no second pass over the model is needed.
    Unlike the renormalised entropy it falls with the mass: a sample whose attention goes to the
    text has little of it, however evenly it looks at the image.
    """
    entropy = np.asarray(entropy_N, dtype=np.float64)
    mass = np.asarray(image_mass_N, dtype=np.float64)
    log_mass = np.log(mass, out=np.zeros_like(mass), where=mass > 0)
    return np.asarray(mass * entropy - mass * log_mass)
