"""A proof of training and scoring on one GPU; see ``python -m benchmarks.gpu_proof --help``."""
