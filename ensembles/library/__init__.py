"""Files and vector stores of tenants, and the search in them: the one facade over records, blobs and the store."""

from ensembles.library.library import Library as Library
