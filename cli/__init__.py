"""The command `mx`: one file per command; the only place that knows stdin, stdout and exit statuses."""
