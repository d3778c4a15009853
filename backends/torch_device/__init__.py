"""What backends of devices that torch knows by a module such as ``torch.cpu`` share."""
