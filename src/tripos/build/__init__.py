"""Composition root: options to opened models, stages, routes and the service. The only place where all parts meet."""
