"""Rows made of Liger Kernel's functions (package ``liger_kernel``), where they keep what a row promises."""
