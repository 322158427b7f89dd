"""How captured bytes reach the other site."""
