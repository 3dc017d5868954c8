"""Evaluation: multi-view testing of videos, and COCO's figures for detections."""
