"""The gateway: the process in front, which serves `RouterService`.

servicer      wire in, wire out; errors become statuses here
admission     who calls, and is there room
decider       has the brain decide, under the tenant's terms
conductor     performs the cascade's commands
calls         one call of a worker, and one begun beside it; the only place that calls workers
delivery      what a caller is told while its answer comes about
answer_cache  when a reply may be used again; with entries, recent, flights, purges
semantic_cache  when it may be the reply to a question that means the same
workers       the channels to the pool, and what each worker says of itself
records       what is kept of a finished request, and how it gets into the ledger
"""
