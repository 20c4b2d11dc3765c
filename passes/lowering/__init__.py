"""How each operator of the float graph becomes integer operators; one file per family, one table for all."""

from kwsq.passes.lowering.table import LOWERINGS, lowering_of

__all__ = ["LOWERINGS", "lowering_of"]
