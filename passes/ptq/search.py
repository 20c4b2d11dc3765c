"""Choosing a range by what it does to the network's output.

Candidates are tried from the widest on. The winner is the widest whose loss exceeds the least by no more than a
fraction of its standard error: with d_i = loss_i(candidate) - loss_i(least), clip by clip,

    mean(d) <= sd(d) / (4 sqrt(n)).                                                                             (56)

The wider range wins what the clips cannot tell apart. A whole standard error would be the textbook's choice; on held
out clips it keeps ranges too wide.

Source: after the one-standard-error rule of L. Breiman et al., "Classification and Regression Trees", 1984, section
3.4.3, on paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from kwsq.passes.ptq.ranges import Range, ladder

Float64 = npt.NDArray[np.float64]
RangeLoss = Callable[[Range], Float64]

NOISE_ERRORS = 0.25
HOPELESS_RATIO = 1.5
HOPELESS_ERRORS = 3.0


def within_noise(losses: Sequence[Float64]) -> list[int]:
    """Returns the candidates whose per-clip losses equal the least but for noise, equation (56)."""
    least = min(losses, key=lambda loss: float(loss.mean()))
    differences = [loss - least for loss in losses]
    return [
        i for i, difference in enumerate(differences) if difference.mean() <= NOISE_ERRORS * standard_error(difference)
    ]


def standard_error(values: Float64) -> float:
    """Returns sd / sqrt(n)."""
    return float(values.std() / np.sqrt(values.size))


def search_range(start: Range, loss_of: RangeLoss) -> tuple[Range, Float64]:
    """Returns the chosen range and its per-clip loss.

    Args:
        start: the extremes of the tensor.
        loss_of: per-clip output loss when the tensor is on the grid of a range.
    """
    best, best_loss = start, loss_of(start)
    for side in ("low", "high") if -start.low > start.high else ("high", "low"):
        best, best_loss = _search_side(ladder(best, side), best_loss, loss_of)
    return best, best_loss


def _search_side(candidates: Sequence[Range], first_loss: Float64, loss_of: RangeLoss) -> tuple[Range, Float64]:
    losses = [first_loss]
    hopeless = 0
    for candidate in candidates[1:]:
        losses.append(loss_of(candidate))
        hopeless = hopeless + 1 if _is_hopeless(losses) else 0
        if hopeless == 2:  # two in a row: one may be the grid falling badly on a few values
            break
    chosen = within_noise(losses)[0]
    return candidates[chosen], losses[chosen]


def _is_hopeless(losses: Sequence[Float64]) -> bool:
    least = min(losses, key=lambda loss: float(loss.mean()))
    difference = losses[-1] - least
    clearly_worse = difference.mean() > HOPELESS_ERRORS * standard_error(difference)
    return bool(clearly_worse and losses[-1].mean() > HOPELESS_RATIO * least.mean())
