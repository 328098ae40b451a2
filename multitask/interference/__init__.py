"""What each task gains or loses by being trained together with the others."""
