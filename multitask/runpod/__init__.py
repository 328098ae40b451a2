"""Renting machines from RunPod: plan, rent, upload, follow, download, remove."""
