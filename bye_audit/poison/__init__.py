"""Backdoor attacks with known ground truth, for measuring detection; knows no storage, no model."""
