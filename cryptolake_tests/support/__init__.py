"""Helpers of the tests: captures, archives, servers, fakes, waiting. Belongs here: what two test modules use."""
