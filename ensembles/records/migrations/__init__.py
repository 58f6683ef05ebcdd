"""How the tables came to be what they are: one module a change, in order, run by alembic."""

HEAD = "0001"
"""The last change. A test holds it to the modules in `versions`."""
