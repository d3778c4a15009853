"""The documentation that every Python carries: real English about code, with no download.

``source`` puts it in order, ``page`` lays a page out, ``package`` reads source files as text, ``builtin``
asks the modules that have no source file.
"""
