"""What a device can do, as a Protocol, and how a machine's device is found."""
