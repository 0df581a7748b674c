"""JSON Schema, apart from how it is enforced: reading one, relaxing one, holding a value against one.

Pure functions of values, below the wire and the engine, which both need them.
Tested in tests/unit/schema/test_schema.py.
"""
