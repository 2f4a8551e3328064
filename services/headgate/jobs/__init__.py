"""Job runners: processes of Celery that run jobs as clients of the gateway, and the reconciler beside them.

app         the Celery app of a runner and its one task
parent      the process that takes tasks and hands them to its children
pool        those children, and how one that died is replaced
runner      one run: from the right to run a job to what became of it
heard       what the gateway's stream said of an answer, and what its failure means
relay       events on their way into the job's stream
hearing     whether a runner still takes tasks
tally       what children count, told to their parent
reconciler  queues again what makes no progress
process     the command line of both
"""
