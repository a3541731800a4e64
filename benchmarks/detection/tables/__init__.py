"""The record as tables for people."""
