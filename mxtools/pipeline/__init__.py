"""The model that passes work on, what a pass is, and pipelines of passes."""
