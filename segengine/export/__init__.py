"""Exports of a store to formats other tools read; reached by name through the registry."""
