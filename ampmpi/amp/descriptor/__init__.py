"""Amp's ``amp.descriptor``."""
