"""From descriptors to maps, scores, thresholds and metrics."""
