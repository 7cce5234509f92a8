"""Tests that hold for every backend: the same cases, the same references."""
