"""Find, in anybody's Python code, what ties it to one vendor's hardware.

- ``source``, ``notebook``, ``files``: what is read; ``settings``: what the user asked for
- ``scope``, ``module``, ``value``: a syntax tree with its names resolved, walked once
- ``check``: the kinds of check; ``vocabulary``, ``rule``: the words and rules of ``conf/lint``
- ``ignore``: comments that silence; ``run``: all of it together
- ``fix``: edits that mend; ``report``: text, JSON, SARIF, tables

No vendor is named here: names and texts are data, in ``conf/lint`` and in the folders of plug-ins.
"""
