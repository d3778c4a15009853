"""What is known of each kind of hardware, as data with units and sources."""
