"""How fast each kernel row is on this machine, beside its reference and beside what the machine can do at most."""
