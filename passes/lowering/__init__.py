"""How each operator of the float graph becomes integer operators; one file per family, one table for all."""

from kwsq.passes.lowering.table import LOWERINGS, PARTS, lowering_of

__all__ = ["LOWERINGS", "PARTS", "lowering_of"]
