"""Labelled videos: the datasets of the paper's clips and crops, the clips of one video, and the check of a copy."""
