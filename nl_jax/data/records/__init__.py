"""Prepared data sets: records of videos, made one by one, written by TFDS and read for training."""
