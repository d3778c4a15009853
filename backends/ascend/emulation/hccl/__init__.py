"""An emulated libhccl.so: the collectives of CANN between processes of ordinary machines."""
