"""Processors: what is done to arguments and results of functions, cached or not."""
