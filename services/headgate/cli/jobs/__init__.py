"""`headgate jobs`: queries that are answered later, and never lost.

connect     a gateway whose jobs are on
batch       lines of a batch file in
results     lines of results out
wait        until all of a batch have ended
many        a file of jobs, by these three
submit      the command, for one question or a file
watch       one job as it comes about
shown       jobs in words, as tables and as JSON
command     list, get, cancel, dead, replay
"""

from headgate.cli.jobs.command import app

__all__ = ["app"]
