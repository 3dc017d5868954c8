"""Mask R-CNN with feature pyramids and non-local blocks (section 6)."""
