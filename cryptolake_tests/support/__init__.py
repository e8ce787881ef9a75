"""Test helpers shared by at least two test modules: captures, archives, servers, fakes, waiting."""
