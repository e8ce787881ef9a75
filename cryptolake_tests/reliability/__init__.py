"""Tests of the simulation, the interleaved commits and the drills."""
