"""Recipes: YAML, its schema, overrides and the runner."""
