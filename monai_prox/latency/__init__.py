"""Latency of members on a device: measured for some members, predicted for the others."""
