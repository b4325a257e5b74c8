"""What exporters get wrong, and how the trace puts it right: each module is what a pass of the same purpose runs."""
