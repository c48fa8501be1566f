"""The assets: thin. Each calls its stage for its partition and reports; the checks stand beside them."""
