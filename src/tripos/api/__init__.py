"""The HTTP door: endpoints decode a body, take the road of answers.py, and encode. No logic of its own.

Tested in tests/api/test_http.py, tests/api/test_new_endpoint.py, tests/api/test_stored.py, tests/api/test_auth.py,
tests/api/test_embeddings.py, tests/api/test_decisions.py, tests/api/test_tokens.py and tests/api/test_chat_walk.py.
"""
