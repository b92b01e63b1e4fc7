"""Prefect tasks: thin wrappers that follow the engine's stages and publish artifacts."""
