"""`headgate outcomes`: what shadow sampling kept, how good it was, and the tables that training reads.

source      which Redis, which tenants: samples and outcomes in
labels      samples joined with outcomes: one quality for each answer, or the reason why not
scorers     what says how good an answer is: exact, regex, json, command, judge
score       asks the scorer about samples that nobody has judged yet
folder      labelled samples out, as the tables that training reads
needs       how many labels a certificate takes
report      the status in words and as JSON

Other commands that read the ledger call `source.labelled`, and `folder.temporary` with what it finds.
"""

from headgate.cli.outcomes.command import app

__all__ = ["app"]
