"""How each ONNX operator becomes an operator of `kwsq.ir`; one file per family, one table for all."""

from kwsq.passes.importers.table import IMPORTERS

__all__ = ["IMPORTERS"]
