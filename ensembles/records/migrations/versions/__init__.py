"""The changes of the tables, one a module."""
