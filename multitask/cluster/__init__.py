"""Clusters: how many GPUs of which kind, and what that means for a batch."""

from multitask.cluster.batch import Batch, derive_batch
from multitask.cluster.cluster import Cluster, load_cluster

__all__ = ["Batch", "Cluster", "derive_batch", "load_cluster"]
