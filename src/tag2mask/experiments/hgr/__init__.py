"""Instruments that look into trained networks; true masks are read here to analyse, never to train."""

from tag2mask.experiments.hgr.ratio import high_gradient_ratio, share_of_maximum

__all__ = ["high_gradient_ratio", "share_of_maximum"]
