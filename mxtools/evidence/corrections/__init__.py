"""What exporters get wrong, and how the trace corrects it; a pass of the same purpose runs each module."""
