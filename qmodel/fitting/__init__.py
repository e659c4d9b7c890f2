"""Fits: kernel profiles to laws, traces to compact workload models."""
