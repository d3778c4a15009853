"""Context parallelism: the tokens of every row are dealt to the ranks of axis ``cp``, which meet in attention
only.
"""
