"""What a training step costs: its time by part, its memory by class."""
