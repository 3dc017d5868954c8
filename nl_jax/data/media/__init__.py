"""Files of videos and images: their exact frames, or the reason why there are none."""
