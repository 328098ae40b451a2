"""Planning: from a spec and its data to how the run is trained, what it needs and what it costs."""
