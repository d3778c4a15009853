"""The contract that every backend keeps, as tests that any package can import, ours and third parties'.

``plugin``      for pytest: ``--backend NAME`` and the fixtures ``backend``, ``device``, ``hardware``
``device``      the suite of the device Protocol
``collective``  the suite of groups: values on one to four processes, and faults that name the guilty
``strategy``    the suite of strategies: what processes learn together is what one learns alone
``engine``      the suite of engines
``kernel``      the suite of kernel rows: each against float64
``process``     real processes that form a group

These modules are tests: they assert, and need pytest.
"""
