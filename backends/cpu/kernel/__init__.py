"""What the CPU's kernel rows call: torch's fused operators, and our C++ of ``backends/cpu/native``."""
