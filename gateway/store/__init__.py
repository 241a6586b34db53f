"""What do all gateway processes know together?

Sums that merge, reports that expire, documents with versions, an audit log and leases, behind one
protocol (`base`) with three stores: `memory` for one process, `sqlite` for the processes of one
host, `redis` for several hosts. `connect` opens the one that an address names.

The store is never on a request's way. `resilient` is what a process talks to: it keeps what the
store has yet to hear, goes on with the last documents while the store is down, and catches up.
`lease` says which process leads.
"""
