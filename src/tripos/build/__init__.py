"""Composition root: options to opened models, stages, routes and the service. The only place where all parts meet.

Tested in tests/unit/build/test_new_kind.py, tests/e2e/test_models.py and tests/api/test_admin.py.
"""
