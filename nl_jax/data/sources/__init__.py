"""What data sets list, read from their annotations as distributed."""
