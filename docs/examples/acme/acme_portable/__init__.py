"""The Acme One, a fictional chip that the simulator plays, as a backend of Portable."""
