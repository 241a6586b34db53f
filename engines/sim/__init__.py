"""What would a vLLM server answer here, without a model and without a GPU?

The simulated engine speaks the HTTP API of vLLM 0.32 as observed on real runs. Its layers, lowest
first (P = pure: no clock, socket, logging or hidden randomness; S = a thin shell that owns them):

    vocabulary, tokenizer, answer,   P  text and tokens, functions of the prompt and the seed
    generation
    fields, errors, sampling,        P  what a body holds, and vLLM's words when it is wrong
    template, tools, example
    api/                             P  per route family: body -> request, tokens -> JSON and SSE
    prefix_cache, scheduler          P  when each token is due: continuous batching, virtual time
    faults, metrics, settings        P  what goes wrong on purpose; what /metrics says
    exchange, delivery, output, job  S  one answer on its way to the socket, whole or broken
    clock, http, engine, routes,     S  connections, timers, signals
    server

Every free text begins with `answer.PREFACE`, and JSON made to a schema says `simulated` where it
may: an answer from here must never pass for a model's.
"""
