"""HTTP/1.1 on both sides: bytes in, requests and events out.

*Downstream* is the client's side, *upstream* the engine's. Nothing here knows about models,
policies or metrics; the proxy core speaks to both sides through the small protocols in `types`.
"""
