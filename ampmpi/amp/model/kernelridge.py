"""Amp's ``amp.model.kernelridge``, which is left out."""

from __future__ import annotations

from ampmpi.amp._left_out import refuse_module

refuse_module("model.kernelridge")
