"""The contract that every backend keeps, as tests that any package can import, ours and third parties'.

``plugin``   for pytest: ``--backend NAME`` and the fixtures ``backend``, ``device``, ``hardware``
``device``   the suite of the device Protocol
``process``  real processes that form a group

These modules are tests: they assert, and need pytest.
"""
