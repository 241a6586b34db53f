"""What would a vLLM server answer here, without a model and without a GPU?

The simulated engine speaks the HTTP API of vLLM 0.32 as observed on real runs. Its layers, lowest first
(P = pure: no clock, socket, logging or hidden randomness; S = a thin shell that owns them):

    vocabulary, tokenizer, answer, generation   P  text and tokens, all of them functions of the prompt and seed
    fields, errors, sampling, requests          P  JSON body -> validated request, or vLLM's error
    shapes/                                     P  tokens -> the JSON bodies and SSE events of each route
    pooling, transcription, example             P  the routes that generate no tokens; values for a JSON Schema
    prefix_cache, scheduler                     P  when each token is due: continuous batching in virtual time
    faults, metrics                             P  what goes wrong on purpose; what /metrics says
    http, job, engine, routes, server           S  sockets, timers, signals

Every generated text begins with `answer.PREFACE`: a simulated answer must never pass for a model's.
"""
