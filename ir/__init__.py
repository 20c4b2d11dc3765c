"""Vocabulary of kwsq: quantisation, operators, graphs and the executors that define their meaning."""
