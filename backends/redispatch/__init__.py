"""The C++ core of devices that compute with the CPU's kernels, and the builder of such native libraries."""

from backends.redispatch.build import CORE_SOURCES, build_library, cache_folder

__all__ = ["CORE_SOURCES", "build_library", "cache_folder"]
