"""Families of models: the input that each expects, and how its outputs are read. Pure arithmetic.

One file a family. `adapters` has all of them; `adapter` says what each must do.
"""
