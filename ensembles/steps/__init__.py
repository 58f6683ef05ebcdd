"""The steps of a retrieval pipeline, one file each; none knows another."""
