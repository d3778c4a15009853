"""Documents said twice: exactly (``exact``), or nearly (``minhash`` finds candidates, ``cluster`` decides
what stays).
"""
