"""Leg 2: what prepares a call and refines its events, stage by stage."""
