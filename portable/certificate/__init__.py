"""The parity certificate: does a layout compute what one process computes, and if not, where do they part?"""
