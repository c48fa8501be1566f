"""Benchmarks of the product's own code paths, every figure held against a bare operation or a peer in the same run."""
