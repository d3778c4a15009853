"""Readers of users' files, one format a file; ``reader`` picks among them by the files' endings.

``stream`` opens and decompresses; ``corpus`` is the format in which a corpus keeps its own documents.
"""
