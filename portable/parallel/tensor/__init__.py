"""Tensor parallelism: the matrices of a model divided over ranks, in lines (1d), grids (2d, 2.5d) and cubes
(3d).
"""
