"""HTTP/1.1: connections, framing, the exchange of one request, TLS, hosts, CORS and logs. Knows no endpoint."""
