"""Discovery of a VNF at a site."""
