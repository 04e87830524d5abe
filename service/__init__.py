"""How a process stands up and answers HTTP: credentials, bodies, problems, OpenAPI, forwarding."""
