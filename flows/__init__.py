"""Prefect flows and the `segengine` command line; nothing else imports from here."""
