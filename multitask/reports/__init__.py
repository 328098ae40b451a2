"""Reports: the results of a run as HTML, Markdown and a terminal table."""
