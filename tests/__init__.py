"""Tests, mirroring the packages; what several of them need stands beside this file."""
