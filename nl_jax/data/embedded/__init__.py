"""The embedded tasks of video, detection and keypoints. They draw their examples on demand and need no data."""
