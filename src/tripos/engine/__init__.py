"""Leg 1, language models: one synchronous loop over integers, schedule → run → update."""
