"""One tenant's log: opened, checked against what was said of it before, and appended to in groups.

Whoever appends waits in line; one task takes what waits, decides it (:mod:`plan`), stores it as one
commit, tells the head file, and only then answers, refusals included: a refusal may rest on what
was still to be stored. After any failure the log is opened anew, from what is durable.

Each module here is one part of that: :mod:`tenant_log` puts them together, and :mod:`restarting` is
what an operator asks of the whole. The order in which they import each other is a contract in
``pyproject.toml``.
"""
