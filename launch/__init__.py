"""Binaries (`python -m launch.NAME`) and the scripts that start them."""
