"""The HTTP door: bytes in, a Call through the service, events out. No logic of its own."""
