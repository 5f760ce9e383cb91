"""Recipes, the command line and the launch of runs: the only package that knows all the others."""
