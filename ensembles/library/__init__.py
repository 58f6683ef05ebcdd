"""Files and vector stores of tenants, and the search in them: the one facade over records, blobs and the store."""

from ensembles.library.fusion import Ranking as Ranking
from ensembles.library.library import Library as Library
from ensembles.library.opening import Place as Place
