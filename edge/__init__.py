"""The front door: to which region a request goes, and the configuration of Envoy, Cloudflare and AWS made from that."""
