"""Warnings about calibration data from which no good grid can be chosen, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kwsq.ir.graph import Graph
from kwsq.ir.quant import FloatArray
from kwsq.passes.base import Level, Note

NAME = "ptq"
OUTLYING = 20.0
"""An 8-bit grid as wide as such an extreme leaves the other clips a twentieth of its codes, 6 on either side: less than
4 bits."""
MOST_OUTLYING = 2
"""More clips of a kind are a part of the data, as silence is."""
FEWEST_COMPARED = 8
"""Among fewer clips a large one is no exception."""
LEAST_SPREAD = 0.1
"""4-bit networks that work keep most of their answers' spread; a tenth of it is rounding, not an answer."""


def data_notes(graph: Graph, inputs: Mapping[str, FloatArray], order: Sequence[int]) -> tuple[Note, ...]:
    """Warns of clips that reach far beyond all others, and of clips that are all the same.

    Args:
        graph: the network, for its name.
        inputs: stacked arrays by name, (clips * batch, ...).
        order: place of every clip in the user's data.
    """
    rows = {name: array.reshape(len(order), -1) for name, array in inputs.items()}
    notes = [note for name, array in rows.items() for note in _outlying(name, array, order)]
    if len(order) > 1 and all(np.array_equal(array, array[:1].repeat(len(order), 0)) for array in rows.values()):
        text = f"all {len(order)} calibration inputs are equal: ranges chosen on one may not fit others; draw them anew"
        notes.append(Note(NAME, graph.name, text, Level.WARNING))
    return tuple(notes)


def answer_notes(spreads: Mapping[str, float]) -> tuple[Note, ...]:
    """Warns where the quantised network answers nearly the same to all clips and the float network does not.

    Args:
        spreads: by output, the spread of its answers over the clips as a share of the float network's.
    """
    return tuple(
        Note(
            NAME,
            name,
            f"the quantised network answers nearly the same to all calibration inputs: its answers spread {spread:.1%} "
            "as far as the float network's; look for outliers in the data, or take --ranges percentile or more bits",
            Level.WARNING,
        )
        for name, spread in spreads.items()
        if spread < LEAST_SPREAD
    )


def _outlying(name: str, rows: FloatArray, order: Sequence[int]) -> tuple[Note, ...]:
    if len(rows) < FEWEST_COMPARED:
        return ()
    largest = np.abs(rows).max(axis=1, initial=0).astype(np.float64)
    places = np.argsort(-largest, kind="stable")
    for count in range(1, MOST_OUTLYING + 1):
        others = float(largest[places[count]])
        if others > 0 and largest[places[count - 1]] > OUTLYING * others:
            found = ", ".join(f"clip {order[place]} reaches {largest[place]:.3g}" for place in places[:count])
            remedy = "remove it" if count == 1 else "remove them"
            text = f"{found}, the others {others:.3g}: {remedy}, or take --ranges percentile"
            return (Note(NAME, name, text, Level.WARNING),)
    return ()
