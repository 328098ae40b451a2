"""Data: from a source's rows to the split, templated mixture of a run."""
