"""Option 1: the whole VNF is quiesced, snapshotted at once and unquiesced."""
