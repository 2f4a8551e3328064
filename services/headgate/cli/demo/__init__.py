"""`headgate demo`: measures on this machine what routing saves and what it costs in quality.

command     the options
run         the stack, the progress bar, the exit code
exercise    worksheets through the real gRPC path: every model pinned, then routed by policy
queued      the same worksheets as queued jobs, with a runner killed midway
figures     qualities, intervals, costs, baselines: pure arithmetic over what was measured
report      the table and the JSON object
"""

from headgate.cli.demo.command import demo

__all__ = ["demo"]
