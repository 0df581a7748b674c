"""HTTP/1.1: connections, framing, the exchange of one request, TLS, hosts, CORS and logs. Knows no endpoint.

Tested in tests/api/test_http.py, tests/api/test_connections.py, tests/api/test_disconnects.py,
tests/api/test_draining.py, tests/api/test_logs.py and tests/e2e/test_proxies.py.
"""
