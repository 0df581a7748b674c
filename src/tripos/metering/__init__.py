"""The seat: what every call took, as usage and as metrics."""
