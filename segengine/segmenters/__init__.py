"""Segmenters, one file a method; reached by name through the registry."""
