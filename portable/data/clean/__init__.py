"""From raw documents to those worth learning from: ``sift`` runs the ops, ``select`` finds duplicates and
splits.

``pipeline`` spreads the work over processes, ``funnel`` counts, ``quarantine`` keeps what could not be read.
"""
