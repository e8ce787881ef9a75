"""Bugs of the past, put back into a copy of the tree: the simulation must find them.

Each `*.patch` puts one back into today's code; its first line says what it was.
"""
