"""Readers of the annotation files of datasets, in the form in which the datasets are distributed."""
