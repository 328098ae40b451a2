"""Clusters: how many GPUs of which kind, and what that means for a batch and for sharding."""

from multitask.cluster.batch import Batch, derive_batch
from multitask.cluster.cluster import Cluster, Price, load_cluster
from multitask.cluster.method import Method, adalora_start_rank, load_method
from multitask.cluster.topology import Sharding, Topology, choose_topology

__all__ = [
    "Batch",
    "Cluster",
    "Method",
    "Price",
    "Sharding",
    "Topology",
    "adalora_start_rank",
    "choose_topology",
    "derive_batch",
    "load_cluster",
    "load_method",
]
