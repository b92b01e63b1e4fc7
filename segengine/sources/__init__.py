"""Readers of inputs, one file a kind; reached by name through the registry."""
