"""How fast each kernel row is on this machine, beside its reference and the machine's roofline."""
