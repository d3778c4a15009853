"""DeepSpeed's engine as a data strategy: ZeRO stages 0 to 3, with offload to host memory and to disks."""
