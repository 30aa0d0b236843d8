"""HTTP/1.1 at the protocol level: the bytes' own path, parsed by llhttp (httptools)."""
