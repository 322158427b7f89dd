"""How the volumes of a recovery are provided, one module per kind of source."""
