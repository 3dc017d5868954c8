"""Multi-view testing and its figures."""
