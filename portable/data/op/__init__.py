"""Data ops, one a file: each maps a document to a document, or to the reason to drop it.

``protocol`` says what an op is, ``build`` makes those that a config names; the rest are the ops themselves.
"""
