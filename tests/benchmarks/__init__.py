"""Paired and interleaved: python -m tests.benchmarks. pytest does not collect these; CI runs the short form.

A benchmark is a module with ROUNDS and `tables(stage, rounds, short=False)`, named in __main__.py.
"""
