"""The processes of a run: how they join, wait for one another and end, and how they hold a workdir."""
