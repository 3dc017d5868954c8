"""Prepared datasets: records of videos that TFDS writes and training reads."""
