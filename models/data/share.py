"""Which rows of every global batch one process trains on.

Row j of a batch is replica j mod R's, of R replicas in all. A process reads, augments and holds the rows of its own
replicas only; what decides a batch does not depend on how many replicas share it.

Source: our choice.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Share:
    """The replicas of this process, in ascending order, of so many in all."""

    replicas: int = 1
    mine: tuple[int, ...] = (0,)

    def rows(self, clips: int) -> NDArray[np.int64]:
        """Return the numbers of this share's rows of a batch, in their order.

        Args:
            clips: of the global batch.
        """
        return np.flatnonzero(np.isin(np.arange(clips) % self.replicas, self.mine))


WHOLE = Share()
"""Of a process that trains alone."""
