"""Rehearsal: a cluster's training, in small, on this machine's CPU, before anything is rented."""
