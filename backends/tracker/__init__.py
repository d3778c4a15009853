"""Experiment trackers, behind ``MetricSink``; each is imported only when ``metrics.sinks`` names it."""
