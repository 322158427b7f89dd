"""How recovery points are made: plain functions, one step of the mission each."""
