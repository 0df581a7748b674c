"""Leg 3: what governs a call: limits and deadlines."""
