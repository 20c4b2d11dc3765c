"""Executors that define what a graph computes: float32 for the source, exact integers for the lowered graph."""

from kwsq.ir.execute.integer import run_integer
from kwsq.ir.execute.real import run_float

__all__ = ["run_float", "run_integer"]
