"""Amp's ``amp.stats``."""
